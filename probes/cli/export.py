"""`probe export TRACE --to DIR|FILE.html`: a trace to give away."""

from __future__ import annotations

import argparse
import json

SUMMARY = "write a trace as a folder of Parquet shards, or what the dashboard shows as one HTML file"
EXAMPLE = "probe export trace.duckdb --to report.html\n  probe export trace.duckdb --to shards/"


def configure(parser: argparse.ArgumentParser) -> None:
    from probes.cli import options

    parser.add_argument("trace", metavar="TRACE", help="a .duckdb trace or a directory of Parquet shards")
    parser.add_argument("--to", required=True, metavar="DIR|FILE.html", help="a new folder, or a report to write")
    options.run(parser, "--run", "which run the report is of (newest)", dest="run_id")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")


def run(args: argparse.Namespace) -> int:
    from probes.export import export

    done = export(args.trace, args.to, args.run_id)
    print(json.dumps(done.as_dict(), ensure_ascii=False) if args.json else f"{done.path}  ({done.bytes / 1e6:,.1f} MB)")
    return 0
