"""`probe interventions`: what can be done to the routing, one by one or as a list."""

from __future__ import annotations

import argparse
import json

SUMMARY = "list the interventions, or define one: formula, options with ranges, source, what it shows"
EXAMPLE = "probe interventions boost"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="one intervention; a list of all without it")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    from probes.interventions import intervention, interventions
    from probes.interventions.describe import as_record, as_text

    if args.name:
        declared = intervention(args.name.replace("-", "_"))
        print(json.dumps(as_record(declared), ensure_ascii=False) if args.json else as_text(declared))
        return 0
    every = list(interventions().values())
    if args.json:
        print(json.dumps({"interventions": [as_record(one) for one in every]}, ensure_ascii=False))
        return 0
    width = max(len(one.name) for one in every)
    print("\n".join(f"{one.name:<{width}}  {one.does}" for one in every))
    return 0
