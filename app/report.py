"""One standalone HTML file with what the pages show: the same words, figures and rows, and nothing from the network.

`python -m app.report TRACE --to report.html`. Each page is run without a browser, as a visitor would first see it, and
what it drew is written down; so the report has every page there is, and says what the pages say. It follows the
reader's system into the dark and back.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from app.report_page import templates, written
from app.theme import COLORS
from probes.errors import ProbeError, UsageError
from probes.parsing import whole
from store.errors import TraceError

COMPONENTS = Path(__file__).parent / "components"
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


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
            yield page.name, page.title, written(path, run, page.name)


def document(title: str, pages: Sequence[tuple[str, str, str]]) -> str:
    """The whole file: Plotly once, the colours of both themes once, then the pages."""
    from plotly.offline import get_plotlyjs

    links = "".join(f'<a href="#{escape(name)}">{escape(label)}</a>' for name, label, _ in pages)
    body = "\n".join(f'<section id="{escape(name)}">{html}</section>' for name, _, html in pages)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{_style()}</style></head>"
        f"<body><nav>{links}</nav>\n{body}\n"
        f'<script class="templates" type="application/json">{templates()}</script>'
        f"<script>{get_plotlyjs()}</script><script>{_part('report.js')}</script></body></html>\n"
    )


def _style() -> str:
    """Light, unless the reader's system is dark; on paper always light."""
    light, dark = ("".join(f"--rw-{name}: {color};" for name, color in COLORS[one].items()) for one in COLORS)
    themes = f":root {{ color-scheme: light; {light} }}\n@media screen and (prefers-color-scheme: dark) "
    return f"{themes}{{ :root {{ color-scheme: dark; {dark} }} }}\n{_part('page.css')}\n{_part('report.css')}"


def _part(name: str) -> str:
    return (COMPONENTS / name).read_text("utf-8")


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m app.report")
    parser.add_argument("trace")
    parser.add_argument("--to", required=True)
    parser.add_argument("--run", type=lambda text: whole(text, "--run", 1))
    logging.disable(logging.WARNING)  # Streamlit remarks that there is no browser
    try:
        args = parser.parse_args(words)
        file = write_report(args.trace, args.to, args.run)
    except ProbeError as error:
        sys.stderr.write(f"probe: {error}\n")
        return 2 if isinstance(error, UsageError) else 1
    sys.stdout.write(f"{file}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
