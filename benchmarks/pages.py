"""How long does a page take to see? A real Chromium over a trace of 1 M tokens, 16 layers, 64 experts, top-8."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.browsing import PAUSE_MS, Action, Visitor, choose, chromium, enter, press, select, serving
from benchmarks.models import Shape
from benchmarks.results import Row, Section, Table
from benchmarks.scale import Scale
from benchmarks.storage import made_batches, replayed
from benchmarks.timing import spread
from store.batch import LayerInfo, RunInfo
from store.writer import TraceWriter

FIRST_VIEW, INTERACTION, MEMORY = 2.0, 0.3, 1024.0
# What people do on each page, first to last; where the first page of a session matters less than what comes after.
ACTIONS: dict[str, dict[str, Action]] = {
    "overview": {"measure of balance": choose("gini")},
    "tokens": {"a token": press(".token", "ArrowRight"), "next token": press(".token", "ArrowRight"),
               "layer": select("Layer")},
    "experts": {"expert": select("Expert"), "layer": select("Layer")},
    "specialization": {"order": choose("numbers"), "layer": select("Layer")},
    "consistency": {"policy": choose("LFU"), "one expert's size": enter("One expert", 6), "layer": select("Look at")},
    "uncertainty": {"measure": choose("Margin"), "p": choose("0.5"), "layer": select("Layer")},
    "super_experts": {},
    "structure": {"flows": choose("above chance"), "colour": choose("lift"), "expert": select("Mark", 3),
                  "layer": select("Layer")},
    "pruning": {"share to keep": enter("Share to keep", 0.4), "criterion": select("Criterion")},
    "compare": {},
    "sql": {},
}  # fmt: skip
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
METHOD = """\
`probe app` over the trace and a headless Chromium of 1280 x 900 pixels on the same two cores, without a graphics
processor. The server has been up for a quarter of a minute; nothing of a page was asked of it before its first view.
First view: from the click in the sidebar, or from the address in a new tab of a browser that has seen the dashboard
before, to the moment the charts in the window are drawn. All: until the charts below stand too and nothing runs.
Again: all of it in another tab, answers kept. Interaction: from a click to the end of everything it set off; "new"
where the server has to find an answer it has not given before, "known" for the same click later."""


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
        section.notes.append(f"Trace: {tokens:,} tokens, {shape}; {path.stat().st_size / 1e9:.1f} GB.")
        with serving(path) as (address, process), chromium(browser) as tabs:
            section.tables = walk(Visitor(tabs, address))
        with serving(path) as (address, process), chromium(browser) as tabs:
            section.tables += visits(Visitor(tabs, address), scale.page_rounds)
            section.tables[-1].rows.append(Row("server memory, peak", peak(process), "MiB", target=MEMORY))
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


def walk(visitor: Visitor) -> list[Table]:
    """Every page from the one before, in one tab; seconds."""
    from app.pages import discover

    titles = {page.name: page.title for page, _ in discover()}
    tab, *_ = visitor.open("sql")
    firsts, alls = [], []
    for page in ACTIONS:
        if page != "sql":
            first, whole = visitor.go(tab, titles[page])
            firsts.append(Row(page, first, "s", target=FIRST_VIEW))
            alls.append(Row(page, whole, "s"))
            tab.wait_for_timeout(PAUSE_MS)
    return [Table("First view, from another page", firsts), Table("All of the page, from another page", alls)]


def visits(visitor: Visitor, rounds: int) -> list[Table]:
    """First view, all and again of every page, and its interactions; seconds."""
    visitor.open("sql")[0].close()  # the first page of all fetches what every page needs
    firsts, alls, agains, news, knowns = [], [], [], [], []
    for page, actions in ACTIONS.items():
        tab, first, whole = visitor.open(page)
        firsts.append(Row(page, first, "s", target=FIRST_VIEW))
        alls.append(Row(page, whole, "s"))
        for name, action in actions.items():
            news.append(Row(f"{page}: {name}", visitor.act(tab, action), "s", target=INTERACTION))
        tab.close()
        again, known = repeated(visitor, page, rounds)
        agains.append(row(page, again))
        knowns += [row(f"{page}: {name}", seconds, INTERACTION) for name, seconds in known.items()]
    return [
        Table("First view, by its address", firsts),
        Table("All of the page, by its address", alls),
        Table("All of it again, by its address", agains),
        Table("Interaction, new", news),
        Table("Interaction, known", knowns),
    ]


def repeated(visitor: Visitor, page: str, rounds: int) -> tuple[list[float], dict[str, list[float]]]:
    """The page and its interactions once more, several times."""
    again: list[float] = []
    known: dict[str, list[float]] = {name: [] for name in ACTIONS[page]}
    for _ in range(rounds):
        tab, _, whole = visitor.open(page)
        again.append(whole)
        for name, action in ACTIONS[page].items():
            known[name].append(visitor.act(tab, action))
        tab.close()
    return again, known


def row(name: str, seconds: list[float], target: float | None = None) -> Row:
    found = spread(seconds)
    return Row(name, found.median, "s", found.low, found.high, found.rounds, target=target)


def peak(process: Any) -> float:
    """Peak resident memory of the server's process tree, MiB."""
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False).stdout
    total = 0.0
    for pid in [process.pid, *map(int, children.split())]:
        status = Path(f"/proc/{pid}/status").read_text("utf-8")
        total += next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0)
    return total / 1024
