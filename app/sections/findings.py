"""What stands out in a run, in words: at once what the stored sums tell, then all of it with intervals."""

from __future__ import annotations

import shlex
from typing import Any

import streamlit as st

from app import data, ui
from app.formats import count
from app.overview_facts import facts
from app.pages import Here, discover

LOOK_SECONDS = 0.5  # how often is looked whether the rest is there
# The metric in a fact's command -> the page that shows more of it, and the choices there.
PAGES = {
    "npmi": "specialization",
    "dataset_distance": "specialization",
    "risk_difference": "specialization",
    "load": "experts",
    "routing_entropy": "uncertainty",
    "coactivation": "structure",
    "cross_layer": "structure",
    "cache_hit_rate": "consistency",
    "super_experts": "super_experts",
    "norm_vs_gate": "pruning",
}


def findings_section(here: Here) -> None:
    """The facts as cards, each with the page that shows more. While a run is recorded, those of the sums only."""
    answer = None if here.recording else facts(here.trace, here.run_id)
    if answer is not None and answer.done() and answer.exception() is None:
        found, n_sequences = answer.result()
        _draw(found, _read_from(n_sequences, int(here.run["n_sequences"])))
        return
    waits = answer is not None and not answer.done()
    says = "Intervals, and what only single tokens tell, are being worked out …" if waits else ""
    _draw(_of_sums(here.trace, here.run_id), says)
    if waits:
        _look_again(answer)
    elif answer is not None:
        ui.problem(f"Intervals, and what only single tokens tell, could not be worked out: {answer.exception()}")


@st.cache_data(show_spinner=False, max_entries=16)
def _of_sums(trace: data.TraceFile, run_id: int) -> list[Any]:
    from probes.findings import findings

    return findings(data.open_file(trace), run_id)


def _look_again(answer: Any) -> None:
    @st.fragment(run_every=LOOK_SECONDS)
    def look() -> None:
        if answer.done():
            st.rerun(scope="app")

    look()


def _draw(found: list[Any], says: str) -> None:
    if found:
        names = {page.name: page.title for page, _ in discover()}
        ui.section("What stands out", says)
        ui.findings(found, [_shown_by(fact.command, names) for fact in found])


def _read_from(n_sequences: int, total: int) -> str:
    if n_sequences >= total:
        return ""
    return (
        f'Intervals, tests and what says "estimated" use {count(n_sequences)} of {count(total)} sequences, drawn '
        "evenly; everything else, such as what is largest, uses all tokens."
    )


def _shown_by(command: str, names: dict[str, str]) -> str:
    """A link to the page that shows the fact; nothing where there is no such page."""
    words_of = shlex.split(command)
    page = PAGES.get(words_of[2], "") if len(words_of) > 2 else ""
    choices = {}
    if "--against" in words_of:
        sides = {"label_a": "--label", "label_b": "--against"}
        choices = {name: words_of[words_of.index(flag) + 1] for name, flag in sides.items()}
    return ui.link(page, f"{names[page]} →", **choices) if page in names else ""
