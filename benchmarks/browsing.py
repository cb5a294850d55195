"""A visitor with a stopwatch: opens pages of the dashboard in a real Chromium and uses their controls."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ARGUMENTS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
WINDOW = {"width": 1280, "height": 900}
SETTLED = 0.25  # seconds without anything running before a page counts as there; not part of what is reported
PAUSE_MS = 500  # between what is done and the next thing, as people do
# [title is there, nothing runs, charts in the window, of these drawn, charts, of these drawn]; what is hidden (a chart
# that only makes the browser fetch Plotly) does not count.
LOOK = """() => {
  const seen = [...document.querySelectorAll('[data-testid=stPlotlyChart]')].filter(e => e.offsetParent);
  const inside = seen.filter(e => e.getBoundingClientRect().top < innerHeight);
  const drawn = e => !!e.querySelector('.main-svg');
  const app = document.querySelector('[data-testid=stApp]');
  const waits = [...document.querySelectorAll('[data-testid=stSkeleton]')].some(e => e.offsetParent);
  const state = app && app.getAttribute('data-test-script-state');
  return [!!document.querySelector('.rw-title'), state === 'notRunning' && !waits,
          inside.length, inside.filter(drawn).length, seen.length, seen.filter(drawn).length];
}"""
Action = Callable[[Any], Callable[[], Any]]  # gets ready on a tab; what it returns is the click that is timed


def select(label: str, steps: int = 1) -> Action:
    """Another entry of a selection, by the keyboard."""

    def ready(tab: Any) -> Callable[[], Any]:
        tab.locator("[data-testid=stSelectbox]").filter(has_text=label).first.locator("input").click()
        tab.wait_for_timeout(250)
        for _ in range(steps):
            tab.keyboard.press("ArrowDown")
        tab.wait_for_timeout(150)
        return lambda: tab.keyboard.press("Enter")

    return ready


def choose(text: str) -> Action:
    """A button of a row of choices."""
    return lambda tab: tab.locator("[data-testid=stButtonGroup] button").filter(has_text=text).first.click


def enter(label: str, value: float) -> Action:
    """A number in a box."""

    def ready(tab: Any) -> Callable[[], Any]:
        tab.locator("[data-testid=stNumberInput]").filter(has_text=label).first.locator("input").fill(str(value))
        return lambda: tab.keyboard.press("Enter")

    return ready


def press(selector: str, key: str) -> Action:
    """A key on something that has the focus."""

    def ready(tab: Any) -> Callable[[], Any]:
        tab.locator(selector).first.focus()
        return lambda: tab.keyboard.press(key)

    return ready


class Visitor:
    """One browser that keeps what it fetched, as people's do."""

    def __init__(self, chromium: Any, address: str) -> None:
        self._context, self._address = chromium.new_context(viewport=WINDOW), address

    def open(self, page: str) -> tuple[Any, float, float]:
        """A new tab at the page: the tab, seconds to the first view, seconds until everything below stands too."""
        tab = self._context.new_page()
        start = time.perf_counter()
        tab.goto(f"{self._address}/{'' if page == 'overview' else page}")
        return tab, *self._there(tab, start)

    def go(self, tab: Any, title: str) -> tuple[float, float]:
        """To another page by the sidebar, as people go: seconds to its first view, and until all of it stands."""
        before = tab.locator(".rw-title").inner_text()
        start = time.perf_counter()
        tab.locator("[data-testid=stSidebarNavLink]").filter(has_text=re.compile(f"{title}$")).first.click()
        tab.wait_for_function("old => (document.querySelector('.rw-title')?.innerText ?? old) !== old", arg=before)
        return self._there(tab, start)

    def act(self, tab: Any, action: Action) -> float:
        """Seconds from the click to the end of everything it set off."""
        click = action(tab)
        start = time.perf_counter()
        click()
        seconds = self._there(tab, start)[1]
        tab.wait_for_timeout(PAUSE_MS)
        return seconds

    def _there(self, tab: Any, start: float) -> tuple[float, float]:
        first = quiet = None
        while True:
            title, still, inside, inside_drawn, charts, drawn = tab.evaluate(LOOK)
            now = time.perf_counter()
            # As long as no chart has its place, one may still come into the window while the script runs.
            if first is None and title and (inside or still) and inside == inside_drawn:
                first = now
            quiet = (quiet or now) if title and still and charts == drawn else None
            if quiet is not None and now - quiet >= SETTLED:
                return (first or quiet) - start, quiet - start
            tab.wait_for_timeout(10)


@contextmanager
def serving(path: Path) -> Iterator[tuple[str, Any]]:
    """The dashboard over the trace as long as the block lasts, with the seconds after the start that it takes to be
    warm."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "app.server", str(path), "--port", str(port)]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        process.stderr.readline()
        time.sleep(15)  # what the server does by itself once it is up
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.terminate()
        process.wait()


@contextmanager
def chromium(path: str) -> Iterator[Any]:
    """A headless browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield found
        found.close()
