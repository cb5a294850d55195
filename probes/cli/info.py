"""`probe info TRACE`: what is in a trace."""

from __future__ import annotations

import argparse
import json

SUMMARY = "show what is in a trace: runs, layers, coverage, size, provenance"
EXAMPLE = "probe info trace.duckdb --json"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("trace", metavar="TRACE", help="a .duckdb trace or a directory of Parquet shards")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    from store.info import as_text, describe
    from store.trace import open_trace

    about = describe(open_trace(args.trace))
    print(json.dumps(about, ensure_ascii=False) if args.json else as_text(about), end="\n" if args.json else "")
    return 0
