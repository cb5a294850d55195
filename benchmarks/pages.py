"""How long does a page take to see? A real Chromium over a trace of 1 M tokens, 16 layers, 64 experts, top-8."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.models import Shape
from benchmarks.results import Row, Section, Table
from benchmarks.scale import Scale
from benchmarks.storage import made_batches, replayed
from benchmarks.timing import spread
from store.batch import LayerInfo, RunInfo
from store.writer import TraceWriter

FIRST_VIEW, INTERACTION, MEMORY = 2.0, 0.3, 1024.0
SETTLED = 0.25  # seconds without a script running before a page counts as there; not part of what is reported
NEEDS_MODEL = ("record", "steering")  # what they show first asks nothing of the trace
RUNNING = "[data-testid=stStatusWidget], [data-stale=true], [data-testid=stSkeleton]"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
METHOD = """\
`probe app` over the trace, every page in a fresh tab of a headless Chromium of 1280 x 900 pixels on the same two cores.
First view: from the address to the moment the page's script has ended and its charts stand, nothing of that page asked
before. Again: the same in another tab, answers kept. Interaction: from a click on a control that every page has (the
format charts are saved in) to the end of the page's new run, which is what any choice costs whose answers are known.
Server memory: its peak after all pages."""


def measure(scale: Scale) -> Section:
    """The pages section."""
    section = Section("pages", "The dashboard in a browser", METHOD)
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        section.skipped = "no Chromium on this machine"
        return section
    shape = replace(scale.shape, layers=scale.page_layers, experts=64, top_k=8)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "large.duckdb"
        tokens = write_large(path, shape, scale.page_tokens)
        with serving(path) as (address, process), chromium(browser) as tabs:
            timed = {name: Timed(tabs, address, name) for name in names()}
            rows = [row for name, page in timed.items() for row in page.rows(scale.page_rounds)]
            memory = Row("server memory, peak", peak(process), "MiB", target=MEMORY)
        section.notes.append(f"Trace: {tokens:,} tokens, {shape}; {path.stat().st_size / 1e9:.1f} GB.")
    firsts, agains, clicks = (rows[i::3] for i in range(3))
    section.tables = [
        Table("First view", firsts),
        Table("The same page again", agains),
        Table("Interaction", [*clicks, memory]),
    ]
    return section


def write_large(path: Path, shape: Shape, tokens: int) -> int:
    """A trace of about `tokens` tokens with bfloat16 logits and norms; how many there are."""
    info = RunInfo(name="large", model="example/large-moe")
    layers = [
        LayerInfo(layer=i, module=f"model.layers.{i}.mlp.gate", num_experts=shape.experts, top_k=shape.top_k)
        for i in range(shape.layers)
    ]
    once = min(tokens, 16_384)
    batches = list(made_batches(shape, once, "bfloat16", norms=True))
    rounds = max(1, tokens // once)
    with TraceWriter.create(path, info, layers) as writer:
        for batch in replayed(batches, rounds):
            writer.write(batch)
        writer.finish()
    return once * rounds


def names() -> list[str]:
    from app.pages import discover

    return [page.name for page, _ in discover() if page.name not in NEEDS_MODEL]


class Timed:
    """One page: how long until it is there."""

    def __init__(self, tabs: Any, address: str, name: str) -> None:
        self._tabs, self.name = tabs, name
        self._url = f"{address}/{'' if name == 'overview' else name}"

    def rows(self, rounds: int) -> list[Row]:
        """First view, again, interaction; seconds."""
        first, _ = self._visit()
        visits = [self._visit(click=True) for _ in range(rounds)]
        again, clicked = (spread([visit[i] for visit in visits]) for i in range(2))
        return [
            Row(self.name, first, "s", target=FIRST_VIEW),
            Row(self.name, again.median, "s", again.low, again.high, again.rounds),
            Row(self.name, clicked.median, "s", clicked.low, clicked.high, clicked.rounds, target=INTERACTION),
        ]

    def _visit(self, click: bool = False) -> tuple[float, float]:
        context = self._tabs.new_context(viewport={"width": 1280, "height": 900})
        tab = context.new_page()
        try:
            start = time.perf_counter()
            tab.goto(self._url)
            tab.wait_for_selector(".rw-title", timeout=120_000)
            there = settled(tab) - start
            clicked = 0.0
            if click:
                tab.wait_for_timeout(500)
                start = time.perf_counter()
                tab.get_by_text("PNG", exact=True).click()
                clicked = settled(tab) - start
            return there, clicked
        finally:
            context.close()


def settled(tab: Any) -> float:
    """The moment since when no script of the page has been running, once that has lasted for `SETTLED` seconds."""
    quiet = None
    while True:
        running = tab.evaluate(f"() => !!document.querySelector('{RUNNING}')")
        now = time.perf_counter()
        quiet = None if running else quiet or now
        if quiet is not None and now - quiet >= SETTLED:
            return quiet
        tab.wait_for_timeout(15)


def peak(process: Any) -> float:
    """Peak resident memory of the server's process tree, MiB."""
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False).stdout
    total = 0.0
    for pid in [process.pid, *map(int, children.split())]:
        status = Path(f"/proc/{pid}/status").read_text("utf-8")
        total += next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0)
    return total / 1024


@contextmanager
def serving(path: Path) -> Iterator[tuple[str, Any]]:
    """The dashboard over the trace as long as the block lasts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "app.server", str(path), "--port", str(port)]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        process.stderr.readline()
        time.sleep(5)  # what the server does by itself once it is up
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
