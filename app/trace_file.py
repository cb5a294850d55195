"""A trace as a file that changes while it is recorded, and the run of it that is shown first. No Streamlit."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class TraceFile:
    """A trace as it lies on the disk at this moment.

    state: which file it is and when anything about it was changed last. Another file under the same name differs in it
    even where size and time of change are the same: nobody can set the time that the system itself notes. The content
    is not read for it, because closing any handle of the file would take DuckDB's lock from it.
    """

    path: str
    changed_ns: int
    n_bytes: int
    state: str = ""

    @property
    def name(self) -> str:
        return Path(self.path).name

    @property
    def quoted(self) -> str:
        """The name as a word of a command line, whatever characters it has."""
        return shlex.quote(self.name)


def identify(path: str) -> TraceFile:
    """The file's identity now; FileNotFoundError where there is none. A write-ahead log beside it counts as part."""
    first, *rest = _files(Path(path))
    stats = [first.stat(), *filter(None, map(_stat, rest))]
    told = [(s.st_dev, s.st_ino, s.st_mtime_ns, s.st_ctime_ns, s.st_size) for s in stats]
    state = hashlib.sha256(repr(told).encode()).hexdigest()[:16]
    return TraceFile(path, max(s.st_mtime_ns for s in stats), sum(s.st_size for s in stats), state)


def shown_first(runs: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Of the rows of the runs view: what is complete comes before what is not, the newest first."""
    return max(runs, key=lambda run: (run["status"] == "complete", int(run["run_id"])))


def _stat(path: Path) -> os.stat_result | None:
    """None for a file that has gone meanwhile: a writer's log comes and goes."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file()) or [path]
    log = path.with_name(path.name + ".wal")
    return [path, *([log] if log.exists() else [])]
