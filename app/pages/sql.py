"""SQL: any single SELECT over the views, in a process of its own; rows, a quick chart, and the rows to take away.

A query in the address is put into the editor and nothing more: a link must not make anyone's machine work.
"""

from __future__ import annotations

import re
import threading
import time
from html import escape
from typing import Any

import pandas as pd
import streamlit as st

from app import charts, state, ui
from app.charts.sql import KINDS, MOST_ROWS
from app.formats import count, plural
from app.pages import Here, Page
from app.tables.query_table import frame_of, numeric
from store import ask, reference
from store import render as rows_as
from store.errors import TraceError

PAGE = Page(name="sql", title="SQL", icon=":material/database_search:", section="Data", order=0)
LONGEST = 8_000  # characters of a query
LIMITS = (1_000, 10_000, 50_000)
LIMIT = {"timeout": 15.0, "memory": 512 << 20, "max_bytes": 64 << 20, "wait": 5.0}
AT_ONCE = 2  # queries of all visitors together: each may take 512 MiB
PATIENCE = 20.0
KEPT = 30  # queries in the history
EDITOR, FORM, MEMORY = "sql_editor", "sql_form", "_sql"
_running = threading.BoundedSemaphore(AT_ONCE)


def render(here: Here) -> None:
    _adopt(here)
    ui.heading(
        here.where,
        "SQL",
        "Ask the trace anything: one SELECT over the views on the right. It is read-only, sees nothing but this trace, "
        "and stops after 15 seconds.",
    )
    left, right = st.columns([0.64, 0.36], gap="large")
    with right:
        ui.html(_views())
    with left:
        shelves = st.container()
        asked = _editor()
        if asked is not None:
            _run(here, *asked)
    with shelves:  # after the run, which the history tells of
        _shelves(here)
    _result(here)


def _memory() -> dict[str, Any]:
    """What this visitor asked: kept in the session, seen by no one else."""
    return st.session_state.setdefault(MEMORY, {"seen": "", "text": "", "history": [], "result": None})


def _adopt(here: Here) -> None:
    """Put what the address asks for into the editor, once, and bring back the text after another page."""
    memory, linked = _memory(), (st.query_params.get("sql") or "")[:LONGEST]
    if linked and linked != memory["seen"]:
        memory.update(seen=linked, text=linked, linked=True)
        st.session_state[EDITOR] = linked
    if EDITOR not in st.session_state:
        st.session_state[EDITOR] = memory["text"] or _examples(here.run_id)[0][1]


def _shelves(here: Here) -> None:
    """Queries to begin with, and the ones asked before."""
    examples = dict(_examples(here.run_id))
    past = {_past_name(number, entry): entry["sql"] for number, entry in enumerate(_memory()["history"])}
    with st.container(horizontal=True):
        _shelf("Examples", "sql_example", examples, f"{len(examples)} to begin with")
        _shelf("History", "sql_past", past, f"{len(past)} in this session" if past else "nothing asked yet")


def _shelf(label: str, key: str, queries: dict[str, str], placeholder: str) -> None:
    def chosen() -> None:
        name = st.session_state[key]
        if name is not None:
            st.session_state[EDITOR] = queries[name]
            _memory().update(text=queries[name], linked=False)
            st.session_state[key] = None

    st.selectbox(label, list(queries), index=None, key=key, placeholder=placeholder, on_change=chosen,
                 disabled=not queries)  # fmt: skip


def _past_name(number: int, entry: dict[str, Any]) -> str:
    words = " ".join(entry["sql"].split())
    return f"{number + 1} · {words[:80]}{'…' if len(words) > 80 else ''} · {entry['outcome']}"


def _editor() -> tuple[str, int] | None:
    """The query and how many rows of it, when Run was pressed now."""
    with st.form(FORM, border=False):
        st.text_area("Query", key=EDITOR, height=230, max_chars=LONGEST, help="Ctrl+Enter runs it.")
        with st.container(horizontal=True, vertical_alignment="bottom"):
            run = st.form_submit_button("Run", type="primary", icon=":material/play_arrow:", key="sql_run")
            rows = st.selectbox("Row limit", LIMITS, format_func=count, width=160, key="sql_rows")
    if not run and _memory().get("linked"):
        ui.note("This query came with the address. Read it; nothing runs until you press Run.")
    sql = st.session_state[EDITOR]
    return (sql, rows) if run and sql.strip() else None


def _run(here: Here, sql: str, rows: int) -> None:
    memory, began = _memory(), time.monotonic()
    with st.spinner("Asking …"):
        try:
            entry = {"result": _asked(here.trace.path, sql, rows), "problem": None}
        except TraceError as error:
            entry = {"result": None, "problem": str(error)}
    entry |= {"sql": sql, "trace": here.trace.path, "file": here.trace, "seconds": time.monotonic() - began}
    if entry["result"] is not None:
        entry["frame"] = frame_of(entry["result"])
    outcome = "refused" if entry["problem"] else f"{count(len(entry['frame']))} rows"
    same = [old for old in memory["history"] if old["sql"] != sql]
    memory.update(result=entry, text=sql, seen=sql, linked=False)
    memory["history"] = [{"sql": sql, "outcome": outcome}, *same][:KEPT]
    st.query_params["sql"] = sql


def _asked(path: str, sql: str, rows: int) -> Any:
    if not _running.acquire(timeout=PATIENCE):
        raise TraceError("other queries are running on this machine; try again in a moment")
    try:
        return ask.run_on(path, sql, limit=rows, **LIMIT)
    finally:
        _running.release()


def _result(here: Here) -> None:
    entry = _memory()["result"]
    if entry is None or entry["trace"] != here.trace.path:
        return
    if entry["file"] != here.trace:
        ui.note("The trace was written to or replaced since this query ran; Run asks it anew.")
    if entry["problem"]:
        ui.section("Not answered")
        ui.problem(entry["problem"])
        return
    frame, result = entry["frame"], entry["result"]
    ui.section("Answer", _says(frame, entry))
    if frame.empty:
        ui.note("The query is right, and no row fits it.")
        return
    st.dataframe(frame, hide_index=True, height=min(440, 38 * (len(frame) + 1)), key="sql_rows_shown")
    with st.container(horizontal=True, gap="small"):
        _download("CSV", lambda: rows_as.render(result, "csv"), "query.csv", "text/csv")
        _download(
            "Parquet", lambda: rows_as.render(result, "parquet"), "query.parquet", "application/vnd.apache.parquet"
        )
    _chart(frame)


def _download(label: str, data: Any, name: str, mime: str) -> None:
    st.download_button(label, data, name, mime, key=f"sql_{label}", icon=":material/download:", on_click="ignore")


def _says(frame: pd.DataFrame, entry: dict[str, Any]) -> str:
    cut = ", cut there: more rows fit the query" if entry["result"].truncated else ""
    shape = f"{plural(len(frame), 'row')}{cut}; {plural(frame.shape[1], 'column')}"
    return f"{shape}; {entry['seconds']:.1f} s."


@ui.part
def _chart(frame: pd.DataFrame) -> None:
    numbers, columns = numeric(frame), [str(name) for name in frame.columns]
    if not numbers or len(columns) < 2:
        return
    ui.section("Quick chart")
    kind_column, x_column, y_column, color_column = st.columns([0.34, 0.22, 0.22, 0.22])
    with kind_column:
        kind = state.pick("Chart", "chart", list(KINDS), kind="segmented")
    with x_column:
        x = state.pick("Across", "x", columns)
    upright = columns if kind == "heat-map" else numbers
    with y_column:
        y = state.pick("Up", "y", upright, default=_first([c for c in upright if c != x], upright[0]))
    with color_column:
        color = state.pick("Colour", "color", ["", *columns], shown=lambda name: name or "none") or None
    says = f"{kind} of {y} over {x}, {count(min(len(frame), MOST_ROWS))} of {count(len(frame))} rows."
    figure = charts.quick_chart(frame, ui.theme(), kind=kind, x=x, y=y, color=color)
    ui.chart(figure, "query", f"Chart of the query's rows: {says}")
    ui.quiet(f"{says[0].upper()}{says[1:]}")


def _first(options: list[str], otherwise: str) -> str:
    """The last rather than the first: what was counted stands last in most queries."""
    return options[-1] if options else otherwise


@st.cache_data(show_spinner=False)
def _examples(run_id: int) -> list[tuple[str, str]]:
    """Question and query, about the run that is shown."""
    return [(title, re.sub(r"\brun_id = 1\b", f"run_id = {run_id}", query)) for title, query in reference.EXAMPLES]


@st.cache_data(show_spinner=False)
def _views() -> str:
    """Every view, its comment and its columns, as HTML."""
    parts = []
    for name, (comment, columns) in reference.views().items():
        rows = "".join(
            f"<dt><code>{escape(column)}</code> <small>{escape(kind)}</small></dt><dd>{escape(text or '')}</dd>"
            for column, kind, text in columns
        )
        title = f"<summary><code>{escape(name)}</code> <span>{escape(comment)}</span></summary>"
        parts.append(f"<details>{title}<dl>{rows}</dl></details>")
    return f'<div class="rw-views"><h2>The views</h2>{"".join(parts)}</div>'
