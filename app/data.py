"""Answers from a trace, kept as long as the file is the one they came from.

The key is the file's identity (path, change time, size), so a trace that is being recorded answers anew by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import streamlit as st

from app.trace_file import TraceFile, identify
from store import page_queries

if TYPE_CHECKING:
    from probes.sampling import Sampled

__all__ = ["TraceFile", "identify"]  # from app.trace_file, for the pages
RECORDING = ("recording", "running")  # run states in which more is still coming
SAMPLE_ROWS = 200_000  # (token, layer) rows that an answer reads where the stored sums are not enough
READ_SECONDS = 15.0  # a recorder holds the file for moments; longer than this and the page says so


@st.cache_data(show_spinner=False, max_entries=8, ttl=10)  # a recorder that died leaves the file as it was
def runs(trace: TraceFile) -> pd.DataFrame:
    """The runs of a trace, newest first. Raises store's TraceError for what is no trace."""
    frame = open_file(trace).runs()
    return frame.sort_values("run_id", ascending=False, ignore_index=True)


@st.cache_data(show_spinner=False, max_entries=32)
def layers(trace: TraceFile, run_id: int) -> pd.DataFrame:
    """The MoE layers of a run: layer, module, num_experts, top_k, gating, shared_experts."""
    frame = pd.DataFrame(open_file(trace).layers(run_id))
    return frame[frame["is_moe"].astype(bool)].sort_values("layer", ignore_index=True)


@st.cache_data(show_spinner=False, max_entries=512)
def ask(trace: TraceFile, question: str, *values: Any) -> Any:
    """The answer of `store.page_queries.<question>(trace, *values)`."""
    return getattr(page_queries, question)(open_file(trace), *values)


@st.cache_data(show_spinner=False, max_entries=32)
def load(trace: TraceFile, run_id: int) -> pd.DataFrame:
    """layer, expert, count, share, ratio for every expert of every layer, also those never chosen (count 0).

    A layer without any assignment has NaN for share and ratio: nothing was recorded, which is not the same as 0.
    """
    here = layers(trace, run_id)
    every = pd.DataFrame(
        [(row.layer, expert) for row in here.itertuples() for expert in range(row.num_experts)],
        columns=["layer", "expert"],
    )
    frame = every.merge(ask(trace, "load", run_id), on=["layer", "expert"], how="left")
    frame["count"] = frame["count"].fillna(0).astype(np.int64)
    total = frame.groupby("layer")["count"].transform("sum")
    frame["share"] = frame["count"] / total.where(total > 0)
    frame["ratio"] = frame["share"] * frame.groupby("layer")["expert"].transform("size")
    return frame


@st.cache_data(show_spinner="Reading a sample of the trace …", max_entries=64)
def analysis(trace: TraceFile, run_id: int, metric: str, **params: Any) -> Sampled:
    """The table of a metric, and how much of the run it rests on: a bounded part, so that nobody waits for a page.

    params: as `probes.analyze` takes them, and `most_rows` for a larger or smaller part. Raises ProbeError where the
    trace lacks what the metric needs.
    """
    from probes.sampling import sampled

    return sampled(open_file(trace), metric, run_id, **params)


@st.cache_data(show_spinner="Reading a sample of the trace …", max_entries=64)
def analysis_or_why(trace: TraceFile, run_id: int, metric: str, **params: Any) -> Sampled | str:
    """The same, or the sentence that says what the trace lacks."""
    from probes.errors import ProbeError

    try:
        return analysis(trace, run_id, metric, **params)
    except ProbeError as error:
        return str(error)


@st.cache_data(show_spinner=False, max_entries=32)
def drawn(trace: TraceFile, run_id: int, most_rows: int = SAMPLE_ROWS) -> tuple[list[int], int]:
    """Numbers of whole sequences drawn evenly, at most `most_rows` (token, layer) rows together, and their tokens."""
    most_tokens = max(1, most_rows // max(1, len(layers(trace, run_id))))
    frame = open_file(trace).drawn(run_id, most_tokens)
    return frame["sequence_id"].tolist(), int(frame["n_tokens"].sum())


def once(make: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    """`make(*inputs, **options)`, made once for what it is made of, whoever looks: frames count by their values.

    For figures and tables that take longer to make than their inputs take to compare. What comes back is shared: it is
    only read.
    """
    return _made(f"{make.__module__}.{make.__qualname__}", make, inputs, options)


@st.cache_resource(show_spinner=False, max_entries=200)
def _made(name: str, _make: Callable[..., Any], inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
    return _make(*inputs, **options)


@st.cache_resource(show_spinner=False, max_entries=8)
def open_file(trace: TraceFile) -> Any:
    """The trace, checked once per state of the file; it holds no connection, so nothing is kept from a recording."""
    from store.trace import open_trace

    return open_trace(trace.path, wait=READ_SECONDS)
