"""The list of interventions on Steering: what is in it, in which order, and what can be added."""

from __future__ import annotations

from html import escape

import streamlit as st

from app import ui
from app.pages import Here
from app.steering import recipe_form, spec_form
from app.steering.memory import Memory
from probes.errors import UsageError
from probes.interventions import Intervention, Spec, intervention

WAYS = ("By hand", "From this trace")
SHOWN = 200  # characters of a spec; one with mean outputs has thousands


def list_section(mine: Memory) -> None:
    """All of them in their order."""
    ui.section("Interventions")
    if mine.problem:
        ui.problem(f"The link names an intervention that cannot be read: {mine.problem}")
    for place, spec in enumerate(mine.specs):
        _row(mine, place, spec)
    if mine.specs and not mine.address:
        ui.quiet("Too long for a link: a reload forgets this list. A run offers it as a file.")
    if not mine.specs:
        ui.note("Nothing yet: the model would run as it is. Add an intervention below, or come from an expert's card.")


def add_section(here: Here, mine: Memory) -> None:
    """The forms, over the whole width: what is typed at the left, what it means at the right."""
    with st.expander("Add an intervention", icon=":material/add:", expanded=not mine.specs):
        _add(here, mine)


@ui.part  # the rest of the page stays as it is while a form is filled in
def _add(here: Here, mine: Memory) -> None:
    way = st.segmented_control("From", WAYS, default=WAYS[0], key="steering_way", label_visibility="collapsed")
    added = recipe_form.form(here) if way == WAYS[1] else _by_hand(here)
    if added:
        mine.take([*mine.specs, *added])
        st.rerun()


def _by_hand(here: Here) -> tuple[Spec, ...]:
    left, right = st.columns([0.58, 0.42], gap="large")
    with left:
        declared = spec_form.pick()
        added = spec_form.form(declared, len(here.layers))
        if isinstance(added, UsageError):
            ui.problem(str(added))
    with right:
        ui.definition([(f"{declared.title}:", f"{declared.does}."), ("Formula", declared.formula), *_more(declared)])
    return (added,) if isinstance(added, Spec) else ()


def _more(declared: Intervention) -> list[tuple[str, str]]:
    notes = declared.notes.replace("`", "")  # written for Markdown
    return [("Source", declared.source), *([("Note", notes)] if notes else [])]


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
