"""`probe demo`: record the sample model, print what was found, open the dashboard."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

SUMMARY = "record the sample prompts through the sample model, print the findings, open the dashboard"
EXAMPLE = "probe demo"


def configure(parser: argparse.ArgumentParser) -> None:
    from probes.cli import options

    parser.add_argument("--out", metavar="TRACE", help="trace to write (default ./router-demo.duckdb)")
    parser.add_argument("--no-serve", action="store_true", help="do not open the dashboard")
    said = "port of the dashboard (default 8501)"
    options.whole(parser, "--port", low=1, high=65535, default=8501, metavar="N", help=said)
    parser.add_argument("--json", action="store_true", help="print the findings as JSON (implies --no-serve)")


def run(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from probes.demo import DEMO_TRACE, make_demo
    from probes.recording.target import check_target

    out = Path(DEMO_TRACE if args.out is None else args.out)
    check_target(out)
    print(f"probe: recording the sample model into {out}", file=sys.stderr)
    done, found = make_demo(out)
    if args.json:
        print(json.dumps({"recorded": done.as_dict(), "findings": [asdict(f) for f in found]}, ensure_ascii=False))
        return 0
    print(done.describe())
    for finding in found:
        print(f"\n{finding.title}\n  {finding.text}\n  more: {finding.command}")
    return 0 if args.no_serve else _serve(out, args.port)


def _serve(trace: Path, port: int) -> int:
    # A process of its own: nothing here imports the dashboard, and Ctrl-C reaches it directly.
    return subprocess.run([sys.executable, "-m", "probes.cli.main", "app", str(trace), "--port", str(port)]).returncode
