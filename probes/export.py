"""A trace to give away: a folder of Parquet shards to go on working with, or one HTML file to read."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from probes.errors import ProbeError, UsageError

HTML = (".html", ".htm")


@dataclass(frozen=True)
class Exported:
    """What was written: a folder or a file, of how many bytes."""

    path: str
    kind: str
    bytes: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def export(trace: str | Path, to: str | Path, run: int | None = None) -> Exported:
    """Write a trace to `to`: a report of one run where it ends in .html, else a folder of shards with all runs.

    Raises UsageError for a run named for a folder, ProbeError or TraceError where it cannot be read or written.
    """
    where = Path(to)
    if where.suffix.lower() in HTML:
        return _report(Path(trace), where, run)
    if run is not None:
        raise UsageError("--run is for a report (.html); a folder of shards holds every run")
    from store.parquet import export_parquet
    from store.trace import open_trace

    folder = export_parquet(open_trace(trace), where)
    return Exported(str(folder), "parquet", sum(file.stat().st_size for file in folder.iterdir()))


def _report(trace: Path, file: Path, run: int | None) -> Exported:
    """The pages belong to the dashboard, of which nothing is imported here: it is a process of its own."""
    import probes

    root = str(Path(probes.__file__).parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    words = [sys.executable, "-P", "-m", "app.report", str(trace), "--to", str(file)]
    words += [] if run is None else ["--run", str(run)]
    done = subprocess.run(words, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return Exported(str(file), "html", file.stat().st_size)
    said = done.stderr.strip().splitlines() or [f"the report was not written (exit code {done.returncode})"]
    raise (UsageError if done.returncode == 2 else ProbeError)(said[-1].removeprefix("probe: "))
