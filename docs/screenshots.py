"""Takes the pictures of the documentation anew: every page, light and dark.

    python docs/screenshots.py TRACE [--out docs/img] [--width 1280] [--choose tokens:token=12]

Needs a Chromium and playwright (the `test` extra).
"""

from __future__ import annotations

import argparse
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
TALLEST = 2600  # pixels; a longer page is cut, for a picture nobody would scroll through
THEMES = ("light", "dark")
FIRST = "overview"  # the page at the bare address
FILLED = {"record": ("Model, a folder on this machine", "sample_data/model")}  # not where this machine has it


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "img")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--choose", action="append", default=[], metavar="PAGE:QUERY", help="what a page shows")
    args = parser.parse_args()
    choices = dict(word.split(":", 1) for word in args.choose)
    args.out.mkdir(parents=True, exist_ok=True)
    with server(args.trace) as address, browser() as chromium:
        for page in pages():
            for theme in THEMES:
                path = args.out / f"{page}-{theme}.png"
                place = "" if page == FIRST else page
                shoot(chromium, f"{address}/{place}?{choices.get(page, '')}", theme, args.width, path, FILLED.get(page))
                sys.stdout.write(f"{path}\n")
    return 0


def pages() -> list[str]:
    return sorted(file.stem for file in (ROOT / "app" / "pages").glob("[a-z]*.py"))


@contextmanager
def server(trace: Path) -> Iterator[str]:
    """The dashboard over `trace`, on a free port, as long as the block lasts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "app.server", str(trace.resolve()), "--port", str(port)]
    process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    line = process.stderr.readline()
    if not line.startswith("dashboard at"):
        raise SystemExit(line.strip() or "the dashboard did not start")
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@contextmanager
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        raise SystemExit("no Chromium on this machine: install chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        yield chromium
        chromium.close()


def shoot(
    chromium: Any, address: str, theme: str, width: int, path: Path, filled: tuple[str, str] | None = None
) -> None:
    """One page as tall as it is: Streamlit scrolls inside the page, so the window is made to fit. `filled`: the label
    of a text box and what is written into it.
    """
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector(".rw-title")
    page.wait_for_selector('[data-testid="stStatusWidget"]', state="detached", timeout=60_000)
    page.wait_for_timeout(2500)  # fonts and charts settle
    if filled is not None:
        page.get_by_label(filled[0]).fill(filled[1])
        page.get_by_label(filled[0]).blur()
    height = page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
    page.set_viewport_size({"width": width, "height": min(int(height), TALLEST)})
    page.wait_for_timeout(1000)
    page.screenshot(path=path)
    context.close()


if __name__ == "__main__":
    sys.exit(main())
