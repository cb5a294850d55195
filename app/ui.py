"""The building blocks of every page: heading, tiles, a chart with its definition and rows, and what to say when
there is nothing to show.

Everything that is put into HTML goes through `escape`: names, labels and text come from traces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from app import charts, state
from app.components.cells import Safe, href, link, safe
from app.theme import COLORS
from probes.errors import ProbeError
from store.errors import TraceError

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["Safe", "href", "link"]  # from app.components.cells, for the pages
THEME = "_theme"  # in the session of a page that no browser shows
STYLE = (Path(__file__).parent / "components" / "page.css").read_text("utf-8")


def theme() -> str:
    """ "light" or "dark": as the page is shown now, or as a report asks for it."""
    return st.session_state.get(THEME) or ("dark" if st.context.theme.type == "dark" else "light")


def begin() -> None:
    """The type, spacing and colours of the HTML on this page."""
    colors = "".join(f"--rw-{name}: {color};" for name, color in COLORS[theme()].items())
    st.html(f"<style>:root {{{colors}}}\n{STYLE}</style>")


def fetch_plotly() -> None:
    """An empty chart that nobody sees, which has the browser load Plotly: most of a second that nobody waits for."""
    with st.container(key="rw_fetch_plotly"):
        axis = {"visible": False}  # it is drawn all the same: as little of it as there can be
        layout = {"width": 10, "height": 10, "xaxis": axis, "yaxis": axis, "template": {}}
        st.plotly_chart({"data": [{"type": "scatter"}], "layout": layout}, theme=None, key="fetch_plotly")


def heading(eyebrow: str, title: str, lead: str, badge: tuple[str, str] | None = None) -> None:
    """Where we are, what it is, one sentence about it. `lead` may hold `<b>` made by `strong`; the rest is escaped."""
    mark = f'<span class="rw-badge" style="color: var(--rw-{badge[1]})">{escape(badge[0])}</span>' if badge else ""
    st.html(
        f'<div class="rw-eyebrow">{escape(eyebrow)}</div><h1 class="rw-title">{escape(title)}{mark}</h1>'
        f'<p class="rw-lead">{lead}</p>'
    )


def strong(text: Any) -> str:
    """The text in bold, escaped: for the numbers in a sentence."""
    return f"<b>{escape(str(text))}</b>"


def tiles(entries: Iterable[tuple[str, str, str]]) -> None:
    """Name, value and a note (unit, exact number) for each of a few numbers."""
    cells = "".join(
        f'<div class="rw-tile"><div class="name">{escape(name)}</div><div class="value">{escape(value)}</div>'
        f'<div class="note">{escape(note)}</div></div>'
        for name, value, note in entries
    )
    st.html(f'<div class="rw-tiles">{cells}</div>')


def findings(entries: Iterable[Any], links: Iterable[str]) -> None:
    """What stands out, in words: cards with `title`, `text`, the `command` that shows it, and a link (`Safe`) or ''."""
    cards = "".join(
        f'<div class="rw-finding"><h3>{escape(found.title)}</h3><p>{escape(found.text)}</p>{safe(link)}'
        f"<code>{escape(found.command or '')}</code></div>"
        for found, link in zip(entries, links, strict=True)
    )
    st.html(f'<div class="rw-findings">{cards}</div>')


def section(title: str, says: str = "") -> None:
    """A question as a heading, and its answer in a sentence."""
    st.html(f'<h2 class="rw-section">{escape(title)}</h2><p class="rw-says">{escape(says)}</p>')


def part(render: Callable[..., None]) -> Callable[..., None]:
    """A part of a page that is drawn anew by itself when something in it is chosen, while the rest stands still.

    A trace that can no longer be read then, or lacks what it needs, is said in its place: nobody above can catch it.
    """

    @st.fragment
    @wraps(render)
    def drawn(*inputs: Any) -> None:
        try:
            render(*inputs)
        except (ProbeError, TraceError) as error:
            problem(str(error))

    return drawn


def pick_layer(here: Any, label: str = "Layer", width: float = 0.22) -> int:
    """The layer this page is about, bound to the URL; the middle one where none is chosen."""
    layers = [int(layer) for layer in here.layers["layer"]]
    column, _ = st.columns([width, 1 - width])
    with column:
        return state.pick(label, "layer", layers, default=layers[len(layers) // 2], clears=("expert",))


def facts(groups: dict[str, dict[str, str]]) -> None:
    """Named groups of name–value pairs, side by side where there is room."""
    blocks = ""
    for title, entries in groups.items():
        rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in entries.items())
        blocks += f"<div><h3>{escape(title)}</h3><dl>{rows}</dl></div>"
    st.html(f'<div class="rw-facts">{blocks}</div>')


def html(body: str) -> None:
    """HTML that a function of this app made, every foreign word in it escaped."""
    st.html(body)


def definition(entries: Sequence[tuple[str, str]]) -> None:
    """Terms and what they mean, to stand beside a chart."""
    parts = "".join(f"<p><b>{escape(term)}</b> {escape(meaning)}</p>" for term, meaning in entries)
    st.html(f'<div class="rw-definition">{parts}</div>')


def quiet(text: str) -> None:
    """A small line beside a control."""
    st.html(f'<span class="rw-quiet">{escape(text)}</span>')


def note(text: str) -> None:
    """A quiet remark in the place of something that is not there."""
    st.html(f'<div class="rw-note">{escape(text)}</div>')


def nothing_yet(recording: bool) -> None:
    """In the place of a page about a run that holds no routing."""
    note(
        "No routing has been recorded yet. The page fills by itself while the recording goes on."
        if recording
        else "This run holds no routing. Was the recording interrupted before its first batch?"
    )


def problem(text: str) -> None:
    """What went wrong with what was asked for, in a line; screen readers say it at once."""
    st.html(f'<div class="rw-problem" role="alert">{escape(text)}</div>')


def full_state(title: str, text: str, command: str = "") -> None:
    """The whole page is this message: what is wrong or missing, and what to do."""
    code = f"<pre><code>{escape(command)}</code></pre>" if command else ""
    st.html(f'<div class="rw-state"><h2>{escape(title)}</h2><p>{escape(text)}</p>{code}</div>')


def chart(figure: go.Figure, name: str, alt: str) -> None:
    """A chart over the whole width; `name` is that of the file it is saved as, `alt` says in words what it shows."""
    config = charts.modebar(name, image_format())
    st.plotly_chart(figure, theme=None, width="stretch", config=config, key=f"chart_{name}", alt=alt)


def chart_block(
    figure: go.Figure, *, name: str, alt: str, meanings: Sequence[tuple[str, str]], rows: pd.DataFrame
) -> None:
    """A chart, its definition beside it, and its rows to look at and take away.

    `alt` says in words what the chart shows; `meanings` are pairs of term and meaning; `rows` are what was drawn.
    """
    left, right = st.columns([0.74, 0.26], gap="medium")
    with left:
        chart(figure, name, alt)
    with right:
        definition(meanings)
        data_buttons(name, rows)


def data_buttons(name: str, rows: pd.DataFrame) -> None:
    """The rows behind a chart: to look at, and as CSV."""
    with st.container(horizontal=True, gap="small"):
        with st.popover("Rows", icon=":material/table_rows:"):
            st.dataframe(rows, hide_index=True, height=min(420, 38 * (len(rows) + 1)))
        st.download_button(
            "CSV", lambda: rows.to_csv(index=False).encode(), f"{name}.csv", "text/csv",
            key=f"csv_{name}", icon=":material/download:", on_click="ignore",
        )  # fmt: skip


def image_format() -> str:
    """The format the camera button of the charts saves."""
    return "png" if state.read("image") == "png" else "svg"
