"""The dashboard: which trace and run, and the pages about it. Started by `app.server` with the traces as arguments."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import streamlit as st

from app import data, state, ui
from app.components.page_change import keep_page_change
from app.components.theme_watch import watch_theme
from app.components.token_text import legible
from app.formats import count, date
from app.pages import SECTIONS, Here, Page, discover
from app.served import short, traces
from app.trace_file import shown_first
from probes.chatter import hush
from probes.errors import ProbeError
from store.errors import TraceError

PICTURES = Path(__file__).parent / "components"
REFRESH_SECONDS = 3  # how often a trace that is being recorded is looked at again


def main() -> None:
    hush()
    # A local file as icon: a named one would be fetched from a font server.
    st.set_page_config(page_title="Router workbench", page_icon=str(PICTURES / "icon.svg"), layout="wide")
    st.logo(str(PICTURES / "logo.svg"), size="large", icon_image=str(PICTURES / "icon.svg"))
    sections: dict[str, list[Any]] = {section: [] for section in SECTIONS}
    for number, (page, render) in enumerate(discover()):
        shown = _shown(page, render)
        sections[page.section].append(
            st.Page(shown, title=page.title, icon=page.icon, url_path=page.name, default=number == 0)
        )
    st.navigation({name: pages for name, pages in sections.items() if pages}, expanded=True).run()


def _shown(page: Page, render: Callable[[Any], None]) -> Callable[[], None]:
    def draw() -> None:
        ui.begin()
        keep_page_change()  # before the page: it may be left at once
        if page.charts:
            ui.fetch_plotly()  # while the page's answers are being found
        state.carry_over(page.name)
        paths = traces()
        here = choose(paths, ui.full_state if page.needs_trace else _nothing)
        if here is not None or not page.needs_trace:
            _draw(here, render)
        if not page.charts:
            ui.fetch_plotly()  # for what comes next
        with st.sidebar:
            watch_theme()

    return draw


def _draw(here: Here | None, render: Callable[[Any], None]) -> None:
    try:
        render(here)
    except TraceError as error:
        if here is None:
            raise
        _unreadable(here.trace.path, error)
    except ProbeError as error:
        ui.problem(str(error))
    if here is not None and here.recording:
        _watch(here.trace)


def choose(paths: list[str], say: Callable[..., None] = ui.full_state) -> Here | None:
    """The trace and run that the sidebar and the URL name; where there is none, `say` is told why."""
    if not paths:
        say(
            "No trace to look at yet",
            "A trace is a file of what a model's routers did, token by token. Record one, on the page Record or so:",
            "probe record MODEL --prompts prompts.jsonl --out trace.duckdb\nprobe app trace.duckdb",
        )
        return None
    path = _pick_trace(paths)
    try:
        return _open(path, say)
    except FileNotFoundError:
        say(
            "The trace is not there",
            f"There is no file {legible(path)}. Was it moved or deleted? The page looks again on reload.",
        )
    except TraceError as error:
        _unreadable(path, error, say)
    return None


def _nothing(*words: str) -> None:
    """For a page that does without a trace."""


def _unreadable(path: str, error: TraceError, say: Callable[..., None] = ui.full_state) -> None:
    say("The trace cannot be read", str(error), f"probe info {shlex.quote(path)}")


def _open(path: str, say: Callable[..., None]) -> Here | None:
    trace = data.identify(path)
    runs = data.runs(trace)
    if runs.empty:
        say("The trace is empty", f"{legible(trace.name)} holds no run yet.", f"probe record MODEL --out {trace.name}")
        return None
    run = _pick_run(runs)
    _image_format()
    recording = run["status"] in data.RECORDING
    return Here(trace, run, data.layers(trace, int(run["run_id"])), recording)


def _pick_trace(paths: list[str]) -> str:
    names = {short(path, paths): path for path in paths}
    if len(names) == 1:
        return paths[0]
    with st.sidebar:
        name = state.pick(
            "Trace", "trace", list(names), shown=legible, clears=("run", "sequence", "token", "layer", "expert")
        )
    return names[name]


def _pick_run(runs: Any) -> dict[str, Any]:
    rows = {int(row["run_id"]): row for row in runs.to_dict("records")}
    best = int(shown_first(rows.values())["run_id"])
    if len(rows) == 1:
        return rows[best]
    with st.sidebar:
        chosen = state.pick(
            "Run",
            "run",
            list(rows),
            default=best,
            shown=lambda run_id: _run_name(rows[run_id]),
            clears=("sequence", "token", "layer", "expert"),
        )
    return rows[chosen]


def _run_name(run: dict[str, Any]) -> str:
    return f"{run['run_id']} · {legible(run['name'])} · {date(run['created_at'])} · {count(run['n_tokens'])} tokens"


def _image_format() -> None:
    with st.sidebar:
        state.pick(
            "Charts save as",
            "image",
            ["svg", "png"],
            kind="segmented",
            shown=str.upper,
            help="The camera button above a chart saves it in this format.",
        )


def _watch(trace: data.TraceFile) -> None:
    """While more is being recorded: look now and then whether the file has changed, and show the page anew if so."""

    @st.fragment(run_every=REFRESH_SECONDS)
    def look() -> None:
        try:
            changed = data.identify(trace.path) != trace
        except FileNotFoundError:
            changed = True  # the page then says that it is gone
        if changed:
            st.rerun(scope="app")

    look()
