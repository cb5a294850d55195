"""`probe app`: the dashboard, as a process of its own (nothing of it is imported here)."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

import probes

SUMMARY = "open the dashboard over one or more traces"
EXAMPLE = "probe app trace.duckdb --port 8501"


def configure(parser: argparse.ArgumentParser) -> None:
    from probes.cli import options

    parser.add_argument("traces", nargs="*", metavar="TRACE", help="a .duckdb file or a directory of Parquet shards")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    options.whole(
        parser, "--port", low=1, high=65535, default=8501, metavar="N", help="port to listen on (default 8501)"
    )
    parser.add_argument("--i-know", action="store_true", help="allow a --host that others can reach; there is no login")
    parser.add_argument("--open", action="store_true", help="open it in the browser")
    parser.add_argument(
        "--model", action="append", default=[], metavar="FOLDER", help="a model to steer, beside the trace's own"
    )
    parser.add_argument("--record-to", metavar="FOLDER", help="where recordings started in the browser go (temporary)")


def run(args: argparse.Namespace) -> int:
    words = [*args.traces, "--host", args.host, "--port", str(args.port)]
    words += ["--i-know"] * args.i_know + ["--open"] * args.open
    words += [] if args.record_to is None else ["--record-to", args.record_to]
    words += [word for model in args.model for word in ("--model", model)]
    process = subprocess.Popen([sys.executable, "-P", "-m", "app.server", *words], env=_environment())
    previous = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        return process.wait()
    except KeyboardInterrupt:
        # The terminal sent Ctrl-C to the server as well; it ends by itself.
        return process.wait(timeout=10)
    finally:
        signal.signal(signal.SIGTERM, previous)


def _environment() -> dict[str, str]:
    """This installation's folder first: where the command is typed there may be another package called `app`."""
    root = str(Path(probes.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
