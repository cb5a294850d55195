"""`probe import`: recordings made elsewhere, into a trace."""

from __future__ import annotations

import argparse
import json
import sys

SUMMARY = "import routing recorded elsewhere into a trace"
EXAMPLE = "probe import npz routing.npz --out routing.duckdb"
FORMATS = ("npz",)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("format", metavar="FORMAT", help=f"format of the file: {', '.join(FORMATS)}")
    parser.add_argument("source", metavar="SRC", help="the file")
    parser.add_argument(
        "--out", required=True, metavar="TRACE", help="trace to write; a run is added to an existing one"
    )
    parser.add_argument("--model-config", metavar="FILE", help="the model's config.json: name, depth, gating rule")
    parser.add_argument("--name", metavar="NAME", help="a name for the run (default: the file's)")
    parser.add_argument("--allow-missing", action="store_true", help="take NaN logits as not recorded")
    parser.add_argument(
        "--allow-mismatch", action="store_true", help="take logits that do not belong to the ids of the file"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    from probes.errors import unknown
    from probes.ingest import import_npz

    if args.format not in FORMATS:
        raise unknown("format", args.format, FORMATS)
    done = import_npz(
        args.source,
        args.out,
        model_config=args.model_config,
        name=args.name,
        allow_missing=args.allow_missing,
        allow_mismatch=args.allow_mismatch,
    )
    for note in done.notes:
        print(f"probe: {note}", file=sys.stderr)
    print(json.dumps(done.as_dict(), ensure_ascii=False) if args.json else done.describe())
    return 0
