"""`probe compare TRACE_A TRACE_B`: two runs side by side."""

from __future__ import annotations

import argparse
import json
import sys

SUMMARY = "two runs side by side: load, entropy, agreement, and the experts that changed"
EXAMPLE = "probe compare base.duckdb instruct.duckdb\n  probe compare steered.duckdb --run 1 --against 2"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("trace_a", metavar="TRACE_A", help="the trace of run a (before)")
    parser.add_argument("trace_b", metavar="TRACE_B", nargs="?", help="the trace of run b (default: the same trace)")
    from probes.cli import options

    options.run(parser, "--run", "run a (default: the newest complete one, or b's baseline)", dest="run_id")
    options.run(parser, "--against", "run b (default: the newest complete one)")
    options.layers(parser, "only these layers, by the model's own index")
    options.whole(parser, "--top", default=10, metavar="N", help="how many changed experts to list (10)")
    parser.add_argument("--no-agreement", action="store_true", help="leave out what reads every token of both runs")
    parser.add_argument("--json", action="store_true", help="one JSON object, with every expert")


def run(args: argparse.Namespace) -> int:
    from probes.comparison import as_object, as_text, compare

    found = compare(args.trace_a, args.trace_b, args.run_id, args.against, args.layers, not args.no_agreement)
    for note in found.notes:
        print(f"probe: {note}", file=sys.stderr)
    print(json.dumps(as_object(found), ensure_ascii=False) if args.json else as_text(found, args.top))
    return 0
