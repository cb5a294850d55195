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
    parser.add_argument(
        "--run", type=int, dest="run_id", metavar="ID", help="run a (default: the newest complete one, or b's baseline)"
    )
    parser.add_argument("--against", type=int, metavar="ID", help="run b (default: the newest complete one)")
    parser.add_argument("--layers", metavar="0-7", help="only these layers, by the model's own index")
    parser.add_argument("--top", type=int, default=10, metavar="N", help="how many changed experts to list (10)")
    parser.add_argument("--no-agreement", action="store_true", help="leave out what reads every token of both runs")
    parser.add_argument("--json", action="store_true", help="one JSON object, with every expert")


def run(args: argparse.Namespace) -> int:
    from probes.comparison import as_object, as_text, compare
    from probes.errors import UsageError

    if args.top < 0:
        raise UsageError(f"--top must not be negative, got {args.top}")
    found = compare(args.trace_a, args.trace_b, args.run_id, args.against, args.layers, not args.no_agreement)
    for note in found.notes:
        print(f"probe: {note}", file=sys.stderr)
    print(json.dumps(as_object(found), ensure_ascii=False) if args.json else as_text(found, args.top))
    return 0
