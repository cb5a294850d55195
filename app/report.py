"""One standalone HTML file with what the pages show: the same words, figures and rows, and nothing from the network.

`python -m app.report TRACE --to report.html`. Each page is run without a browser, as a visitor would first see it, and
what it drew is written down; so the report has every page there is, and says what the pages say.
"""

from __future__ import annotations

import argparse
import base64
import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from app.theme import COLORS
from probes.errors import ProbeError, UsageError
from store.errors import TraceError

ROWS = 200  # of a table that are written as a table; all of them go into its CSV
MOST_CSV = 2 << 20  # bytes of it
SECONDS = 300  # for a page
COMPONENTS = Path(__file__).parent / "components"
_LINK = re.compile(r'<a class="rw-link[^>]*>(.*?)</a>')
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
STYLE = """
body { font-family: 'Source Sans 3', 'Source Sans Pro', system-ui, sans-serif; font-size: 16px; line-height: 1.5;
  color: var(--rw-ink); background: var(--rw-background); max-width: 76rem; margin: 0 auto; padding: 2rem 1.5rem 5rem; }
nav { margin: 1rem 0 2rem; } nav a { color: var(--rw-accent); margin-right: 1rem; }
section { border-top: 2px solid var(--rw-line); margin-top: 3rem; padding-top: 1.5rem; }
.chart { margin: .6rem 0; min-height: 200px; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .2rem .7rem; border-bottom: 1px solid var(--rw-line); white-space: pre-wrap; }
details { margin: .4rem 0 1.2rem; } summary { cursor: pointer; color: var(--rw-accent); }
.rows { max-height: 26rem; overflow: auto; } pre { white-space: pre-wrap; overflow-wrap: anywhere; }
"""
DRAW = """
for (const node of document.querySelectorAll("script.figure")) {
  const figure = JSON.parse(node.textContent);
  const config = {displaylogo: false, responsive: true, toImageButtonOptions: {format: "svg"}};
  Plotly.newPlot(node.dataset.into, figure.data, figure.layout, config);
}
"""


def write_report(trace: str | Path, out: str | Path, run: int | None = None) -> Path:
    """Write the report of one run (default: the newest complete one) and return its path.

    Raises ProbeError for a trace that cannot be read, a run that is not there, or a file that cannot be written.
    """
    path, file = Path(trace).resolve(), Path(out)
    if not file.parent.is_dir() or file.is_dir():
        raise UsageError(f"--to {file}: no folder {file.parent} to write it into")
    try:
        from store.trace import open_trace

        about = open_trace(path).run(run)
    except TraceError as error:
        raise ProbeError(str(error)) from error
    pages = [page for page in drawn(path, int(about["run_id"])) if "<div class='chart'" in page[2]]
    making = file.with_name(f".{file.name}.{os.getpid()}.new")
    try:
        making.write_text(document(f"{path.name}, run {about['run_id']}", pages), "utf-8")
        os.replace(making, file)
    except OSError as error:
        raise ProbeError(f"{file}: {error.strerror or error}") from error
    return file


def drawn(path: Path, run: int) -> Iterator[tuple[str, str, str]]:
    """Name, title and HTML of each page about a trace."""
    from app.pages import discover

    for page, _ in discover():
        if page.needs_trace:
            yield page.name, page.title, _page(path, run, page.name)


def show(path: str, name: str) -> None:
    """Draw one page: what the script of `_page` runs."""
    from app.main import choose
    from app.pages import discover

    here = choose([path])
    if here is not None:
        next(render for page, render in discover() if page.name == name)(here)


def document(title: str, pages: Sequence[tuple[str, str, str]]) -> str:
    """The whole file: Plotly once, then the pages."""
    from plotly.offline import get_plotlyjs

    colors = "".join(f"--rw-{name}: {color};" for name, color in COLORS["light"].items())
    style = f":root {{ {colors} }}\n{(COMPONENTS / 'page.css').read_text('utf-8')}\n{STYLE}"
    links = "".join(f'<a href="#{escape(name)}">{escape(label)}</a>' for name, label, _ in pages)
    body = "\n".join(f'<section id="{escape(name)}">{html}</section>' for name, _, html in pages)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
        f"<style>{style}</style></head>"
        f"<body><nav>{links}</nav>\n{body}\n<script>{get_plotlyjs()}</script><script>{DRAW}</script></body></html>\n"
    )


def _page(path: Path, run: int, name: str) -> str:
    from streamlit.testing.v1 import AppTest

    sys.argv = ["dashboard.py", str(path)]  # the pages ask there which traces are served
    script = f"from app.report import show\nshow({str(path)!r}, {name!r})\n"
    test = AppTest.from_string(script, default_timeout=SECONDS)
    test.query_params["run"] = str(run)
    test.run()
    if test.exception:
        raise ProbeError(f"the page {name} cannot be drawn: {test.exception[0].message}")
    return "\n".join(_written(test.main, name))


def _written(block: Any, page: str) -> Iterator[str]:
    """The blocks and elements of a page in their order; pickers and buttons are left out."""
    for child in block.children.values():
        if child.type == "expander":
            inside = "\n".join(_written(child, page))
            yield f"<details><summary>{escape(child.label)}</summary>{inside}</details>"
        elif hasattr(child, "children"):
            yield from _written(child, page)
        elif child.type == "html":
            yield _LINK.sub(r"\1", str(child.proto.body))
        elif child.type == "plotly_chart":
            yield _chart(child.proto, page)
        elif child.type == "dataframe":
            yield _table(child.value)
        elif child.type == "code":
            yield f"<pre><code>{escape(child.value)}</code></pre>"


def _chart(proto: Any, page: str) -> str:
    place = f"{page}-{proto.id.split('-')[-1]}"
    # A script ends at the first "</script" even inside text; so no "<" stands in the data as itself.
    figure = json.dumps(json.loads(proto.spec), ensure_ascii=False).replace("<", "\\u003c")
    return (
        f'<div class=\'chart\' id="{escape(place)}" role="img" aria-label="{escape(proto.alt)}"></div>'
        f'<script class="figure" type="application/json" data-into="{escape(place)}">{figure}</script>'
    )


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


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m app.report")
    parser.add_argument("trace")
    parser.add_argument("--to", required=True)
    parser.add_argument("--run", type=int)
    args = parser.parse_args(words)
    logging.disable(logging.WARNING)  # Streamlit remarks that there is no browser
    try:
        file = write_report(args.trace, args.to, args.run)
    except ProbeError as error:
        sys.stderr.write(f"probe: {error}\n")
        return 2 if isinstance(error, UsageError) else 1
    sys.stdout.write(f"{file}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
