"""The traces there are to look at."""

from __future__ import annotations

import secrets
import tempfile
from pathlib import Path

import streamlit as st

from app import options, recorder, state

KEPT = "_kept_traces"


def traces() -> list[str]:
    """The traces the dashboard was started with, and those this visitor records, has recorded or has kept."""
    own = [str(job.trace) for job in recorder.mine(state.read("job")) if job.trace.exists()]
    kept = [path for path in st.session_state.get(KEPT, []) if Path(path).exists()]
    return [*options.given().traces, *own, *kept]


def new_trace(beginning: str) -> Path:
    """Where a trace of this visitor may be written: the folder for recordings, or one that ends with the server."""
    folder = options.given().record_to or _temporary().name
    return Path(folder) / f"{beginning}-{secrets.token_hex(4)}.duckdb"


def keep(path: Path) -> None:
    """Show this visitor, and nobody else, the trace among the others."""
    st.session_state.setdefault(KEPT, []).append(str(path))


@st.cache_resource(show_spinner=False)
def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="router-workbench-")


def short(path: str, paths: list[str]) -> str:
    """The file's name; the whole path where two traces have the same name."""
    same = [other for other in paths if Path(other).name == Path(path).name]
    return Path(path).name if len(same) == 1 else path
