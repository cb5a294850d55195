"""`probe doctor`: is this machine fit for recording?"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

SUMMARY = "check what is installed and whether it fits"
EXAMPLE = "probe doctor"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the checks as JSON")


def run(args: argparse.Namespace) -> int:
    from probes.doctor import BAD, examine

    checks = examine()
    if args.json:
        print(json.dumps([asdict(check) for check in checks], ensure_ascii=False))
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            print(f"{check.state:8} {check.name:{width}}  {check.found}{'  → ' + check.advice if check.advice else ''}")
    return 1 if any(check.state == BAD for check in checks) else 0
