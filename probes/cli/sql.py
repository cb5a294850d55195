"""`probe sql TRACE "SELECT …"`: read-only SQL over the views of a trace."""

from __future__ import annotations

import argparse
import sys

from probes.errors import UsageError

SUMMARY = "ask a trace in SQL (read-only; the views are described in docs/sql.md)"
EXAMPLE = 'probe sql trace.duckdb "SELECT label, count(*) AS n FROM sequences GROUP BY ALL ORDER BY n DESC"'
FORMATS = ("table", "json", "jsonl", "csv", "markdown", "parquet")


def configure(parser: argparse.ArgumentParser) -> None:
    from probes.cli import options

    parser.add_argument("trace", metavar="TRACE", help="a .duckdb trace or a directory of Parquet shards")
    parser.add_argument("sql", metavar="SELECT", help="one SELECT, WITH, EXPLAIN, DESCRIBE or SUMMARIZE; - reads stdin")
    parser.add_argument("--format", choices=FORMATS, default="table", help="how to print (table)")
    parser.add_argument("--json", action="store_true", help="the same as --format json")
    options.whole(parser, "--limit", low=1, default=1000, metavar="N", help="at most this many rows (1000)")
    said = "seconds the query may take (30)"
    options.number(parser, "--timeout", bounds={"above": 0, "high": 86400}, default=30.0, metavar="S", help=said)
    said = "memory the query may take (1024, at least 64)"
    options.whole(parser, "--memory", low=64, high=1 << 24, default=1024, metavar="MB", help=said)
    parser.add_argument("--out", metavar="FILE", help="write there, not to stdout")


def run(args: argparse.Namespace) -> int:
    from probes.files import check_writable
    from store.ask import run_on
    from store.render import render

    check_writable(args.out)
    form = "json" if args.json else args.format
    if form == "parquet" and not args.out and sys.stdout.isatty():
        raise UsageError("Parquet is binary: give --out FILE, or send it into a file or pipe")
    sql = sys.stdin.read() if args.sql == "-" else args.sql
    result = run_on(args.trace, sql, limit=args.limit, timeout=args.timeout, memory=args.memory << 20)
    _put(render(result, form), args.out)
    if result.truncated:
        print(f"probe: only the first {result.rows.num_rows:,} rows are shown; --limit N for more", file=sys.stderr)
    return 0


def _put(data: bytes, out: str | None) -> None:
    if out is None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    try:
        with open(out, "wb") as f:
            f.write(data)
    except OSError as error:
        raise UsageError(f"--out {out}: {error.strerror}") from error
