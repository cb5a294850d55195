"""The traces there are to look at."""

from __future__ import annotations

from pathlib import Path

from app import options, recorder, state


def traces() -> list[str]:
    """The traces the dashboard was started with, and those this visitor records or has recorded."""
    own = [str(job.trace) for job in recorder.mine(state.read("job")) if job.trace.exists()]
    return [*options.given().traces, *own]


def short(path: str, paths: list[str]) -> str:
    """The file's name; the whole path where two traces have the same name."""
    same = [other for other in paths if Path(other).name == Path(path).name]
    return Path(path).name if len(same) == 1 else path
