"""Steering: change the routing of a running model, see what it writes and what it thinks, next to controls."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import streamlit as st

from app import options, state, ui
from app.formats import plural
from app.pages import Here, Page
from app.sections.steering_list import add_section, list_section
from app.sections.steering_result import result_section
from app.steering import evaluation as steering_eval
from app.steering import live, side_view
from app.steering import run as steering_run
from app.steering.memory import Memory, Request, memory
from probes.errors import ProbeError
from probes.generation import Decoding

PAGE = Page(name="steering", title="Steering", icon=":material/alt_route:", section="Change", order=1)
LONGEST_PROMPT = 20_000
TOKENS = ("greedy", "sampled")


def render(here: Here) -> None:
    ui.heading(
        here.where,
        "Steering",
        "Change which experts a model uses while it runs, and see what that does: the text it writes, what it thinks "
        "of the same text, and how much of that any random change of the same size would do.",
    )
    path = _model(here)
    if path is None:
        return
    mine = memory()
    mine.adopt()
    left, right = st.columns([0.5, 0.5], gap="large")
    with left:
        prompt, decoding = _prompt(here)
    with right:
        list_section(mine)
    add_section(here, mine)
    _run(Request(path, prompt, decoding, tuple(mine.specs)), mine)
    if mine.outcome is not None:
        result_section(mine.outcome, mine)
    steering_eval.section(path, mine.specs)


def _model(here: Here) -> str | None:
    """The model to steer; where there is none, the page says what to do."""
    if not options.given().may_steer:
        ui.note(
            "Steering is switched off here, because others can reach this dashboard. "
            "Whoever starts it can allow it: probe app … --model FOLDER"
        )
        return None
    known = live.models_of(here)
    if not known:
        ui.note(
            f"The model of this run, {here.run['model']}, is not a folder on this machine. Start the dashboard with "
            f"the place where it is: probe app {here.trace.name} --model FOLDER"
        )
        return None
    return known[0] if len(known) == 1 else state.pick("Model", "model", known, shown=lambda path: Path(path).name)


def _prompt(here: Here) -> tuple[str, Decoding]:
    ui.section("Prompt")
    given = side_view.start_of(here, state.read_int("sequence"))
    key = f"steering_prompt_{state.read_int('sequence')}"
    prompt = st.text_area(
        "Prompt", given, height=130, max_chars=LONGEST_PROMPT, key=key, placeholder="prompt to continue"
    )
    with st.container(horizontal=True, vertical_alignment="bottom"):
        new_tokens = st.number_input("Max new tokens", 1, 512, 40, key="steering_new", width=190)
        drawn = st.segmented_control("Decoding", TOKENS, default=TOKENS[0], key="steering_drawn") == TOKENS[1]
    line = st.checkbox("Stop at the end of a line", key="steering_line")
    sampling = _sampling() if drawn else {}
    return prompt, Decoding(int(new_tokens), ("\n",) if line else (), **sampling)


def _sampling() -> dict[str, Any]:
    """How tokens are sampled: the same seed for the baseline, the steered model and the controls."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        temperature = st.number_input("Temperature", 0.05, 5.0, 1.0, 0.1, key="steering_temperature", width=140)
        top_p = st.number_input("Top p", 0.05, 1.0, 1.0, 0.05, key="steering_top_p", width=140)
        seed = st.number_input("Seed", 0, 2**31 - 1, 0, key="steering_seed", width=140, help="the same for both texts")
    return {"sample": True, "temperature": float(temperature), "top_p": float(top_p), "seed": int(seed)}


def _run(request: Request, mine: Memory) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        wanted = st.button("Run", type="primary", icon=":material/play_arrow:", disabled=not request.specs)
        state_of = st.empty()
    state_of.html(_model_state(request.path))
    if not wanted:
        if mine.outcome is not None and mine.outcome.request != request:
            ui.quiet("What is below belongs to the last run; something above has changed since.")
        return
    places = side_view.places()
    mine.outcome = mine.kept = None
    try:
        mine.outcome = steering_run.run(request, places)
    except ProbeError as error:
        ui.problem(str(error))
    places.clear()
    state_of.html(_model_state(request.path))


def _model_state(path: str) -> str:
    loaded, used, waiting = live.models().state(path)
    queue = f"; {plural(waiting, 'other')} waiting" if waiting else ""
    busy = "in use by someone else" + queue if used else "in memory" if loaded else "loaded on the first run"
    return f'<span class="rw-quiet">{escape(Path(path).name)}: {busy}</span>'
