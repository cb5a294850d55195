"""One page of the dashboard as HTML that stands by itself: what it drew without a browser, written down.

A figure is kept once, as it is in the light theme, with what is different in the dark one.
"""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from app.theme import COLORS
from probes.errors import ProbeError

ROWS = 200  # of a table that are written as a table; all of them go into its CSV
MOST_CSV = 2 << 20  # bytes of it
SECONDS = 300  # for a page
_LINK = re.compile(r'<a class="rw-link[^>]*>(.*?)</a>')


def show(path: str, name: str) -> None:
    """Draw one page: what the script of `_run` runs."""
    from app.main import choose
    from app.pages import discover

    here = choose([path])
    if here is not None:
        next(render for page, render in discover() if page.name == name)(here)


def written(path: Path, run: int, name: str) -> str:
    """The page as a visitor would first see it, in both themes. ProbeError where it cannot be drawn."""
    light = _run(path, run, name, "light")
    dark = _run(path, run, name, "dark") if any(_charts(light)) else None
    figures = _figures(name, light, dark)
    return "\n".join(_written(light, figures))


def _run(path: Path, run: int, name: str, theme: str) -> Any:
    """The root of what the page drew."""
    from streamlit.testing.v1 import AppTest

    from app.later import later
    from app.ui import THEME

    sys.argv = ["dashboard.py", str(path)]  # the pages ask there which traces are served
    script = f"from app.report_page import show\nshow({str(path)!r}, {name!r})\n"
    test = AppTest.from_string(script, default_timeout=SECONDS)
    test.query_params["run"] = str(run)
    test.session_state[THEME] = theme
    later.wait(SECONDS)
    before = later.asked
    test.run()
    if not test.exception and later.asked > before:
        later.wait(SECONDS)
        test.run()  # what the page would have shown a moment later
    if test.exception:
        raise ProbeError(f"the page {name} cannot be drawn: {test.exception[0].message}")
    return test.main


def _charts(block: Any) -> Iterator[Any]:
    """The charts of a page in their order."""
    for child in block.children.values():
        if child.type == "plotly_chart":
            yield child.proto
        elif hasattr(child, "children"):
            yield from _charts(child)


def _figures(page: str, light: Any, dark: Any) -> Iterator[str]:
    """Each figure of a page as HTML: its place, and its data for the script that draws it."""
    if dark is None:
        return
    for number, (one, other) in enumerate(zip(_charts(light), _charts(dark), strict=True), 1):
        figure, darker = (json.loads(proto.spec) for proto in (one, other))
        for made in (figure, darker):
            made["layout"].pop("template", None)  # the same for all; the document has it once
        place = escape(f"{page}-figure-{number}")
        yield (
            f'<div class=\'chart\' id="{place}" role="img" aria-label="{escape(one.alt)}"></div>'
            f'<script class="figure" type="application/json" data-into="{place}">'
            f"{in_script({**figure, 'dark': list(changes(figure, darker))})}</script>"
        )


def changes(first: Any, second: Any, path: tuple[str | int, ...] = ()) -> Iterator[list[Any]]:
    """What makes `second` of `first`: [path, value], or [path] for what is to be taken out.

    >>> list(changes({"a": [1, 2], "b": 3}, {"a": [1, 5]}))
    [[['a', 1], 5], [['b']]]
    """
    if isinstance(first, dict) and isinstance(second, dict):
        for name in first:
            yield from changes(first[name], second[name], (*path, name)) if name in second else [[[*path, name]]]
        yield from ([[*path, name], second[name]] for name in second if name not in first)
    elif isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        found = [one for place, pair in enumerate(zip(first, second, strict=True)) for one in changes(*pair, (place,))]
        # A list in which most is new, a colour for each bar say, is shorter to write as a whole.
        whole = len(json.dumps(found)) > len(json.dumps(second))
        yield from [[[*path], second]] if whole else [[[*path, *where], *value] for where, *value in found]
    elif first != second or type(first) is not type(second):
        yield [[*path], second]


def in_script(value: Any) -> str:
    """JSON for a script element. It ends at the first "</script" even inside text, so no "<" stands as itself."""
    return json.dumps(value, ensure_ascii=False).replace("<", "\\u003c")


def _written(block: Any, figures: Iterator[str]) -> Iterator[str]:
    """The blocks and elements of a page in their order; pickers and buttons are left out."""
    for child in block.children.values():
        if child.type == "expander":
            inside = "\n".join(_written(child, figures))
            yield f"<details><summary>{escape(child.label)}</summary>{inside}</details>"
        elif hasattr(child, "children"):
            yield from _written(child, figures)
        elif child.type == "html":
            yield _LINK.sub(r"\1", str(child.proto.body))
        elif child.type == "plotly_chart":
            yield next(figures)
        elif child.type == "dataframe":
            yield _table(child.value)
        elif child.type == "code":
            yield f"<pre><code>{escape(child.value)}</code></pre>"


def _table(frame: Any) -> str:
    head = "".join(f"<th>{escape(str(name))}</th>" for name in frame.columns)
    rows = "".join(
        f"<tr>{''.join(f'<td>{escape(_cell(value))}</td>' for value in row)}</tr>"
        for row in frame.head(ROWS).itertuples(index=False)
    )
    many = f"the first {ROWS:,} of {len(frame):,} rows" if len(frame) > ROWS else f"{len(frame):,} rows"
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f'<details><summary>{many}</summary>{_csv(frame)}<div class="rows">{table}</div></details>'


def _csv(frame: Any) -> str:
    text = frame.to_csv(index=False).encode()
    if len(text) > MOST_CSV:
        return ""
    return f'<a download="rows.csv" href="data:text/csv;base64,{base64.b64encode(text).decode()}">all as CSV</a>'


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and value != value):
        return "–"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def templates() -> str:
    """The Plotly templates of both themes, for the script that draws."""
    from app.theme import template

    return in_script({theme: json.loads(template(theme).to_json()) for theme in COLORS})
