"""The list of interventions on Steering: what is in it, in which order, and what can be added."""

from __future__ import annotations

from html import escape

import streamlit as st

from app import recipe_form, spec_form, ui
from app.pages import Here
from app.steering_memory import Memory
from probes.errors import UsageError
from probes.interventions import Spec, intervention

WAYS = ("By hand", "From this trace")
SHOWN = 200  # characters of a spec; one with mean outputs has thousands


def list_section(here: Here, mine: Memory) -> None:
    """All of them in their order, and the way to add one."""
    ui.section("What is to be changed?")
    if mine.problem:
        ui.problem(f"The link names an intervention that cannot be read: {mine.problem}")
    for place, spec in enumerate(mine.specs):
        _row(mine, place, spec)
    if not mine.specs:
        ui.note("Nothing yet: the model would run as it is. Add an intervention below, or come from an expert's card.")
    with st.popover("Add an intervention", icon=":material/add:", key="steering_add"):
        _add(here, mine)


@st.fragment  # the rest of the page stays as it is while a form is filled in
def _add(here: Here, mine: Memory) -> None:
    way = st.segmented_control("From", WAYS, default=WAYS[0], key="steering_way", label_visibility="collapsed")
    added = recipe_form.form(here) if way == WAYS[1] else _by_hand(here)
    if added:
        mine.take([*mine.specs, *added])
        st.rerun()


def _row(mine: Memory, place: int, spec: Spec) -> None:
    text, up, gone = st.columns([0.76, 0.12, 0.12], vertical_alignment="center")
    with text:
        declared = intervention(spec.name)
        ui.html(
            f'<div class="rw-spec"><b>{escape(declared.title)}</b> <code>{escape(str(spec)[:SHOWN])}</code>'
            f"<small>{escape(declared.does)}</small></div>"
        )
    specs = mine.specs
    with up:
        earlier = [*specs[: place - 1], spec, specs[place - 1], *specs[place + 1 :]] if place else specs
        st.button(
            "Earlier", key=f"spec_up_{place}", icon=":material/arrow_upward:", disabled=place == 0,
            on_click=mine.take, args=(earlier,), help="Interventions of one kind act in this order.",
        )  # fmt: skip
    with gone:
        rest = [*specs[:place], *specs[place + 1 :]]
        st.button("Remove", key=f"spec_gone_{place}", icon=":material/close:", on_click=mine.take, args=(rest,))


def _by_hand(here: Here) -> tuple[Spec, ...]:
    added = spec_form.form(len(here.layers))
    if isinstance(added, UsageError):
        ui.problem(str(added))
    return (added,) if isinstance(added, Spec) else ()
