"""The form of a recipe, interventions from what the trace at hand says: choose, look at whom it names, add."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from html import escape
from typing import Any

import streamlit as st

from app import data, ui, words
from app.pages import Here
from app.steering import option_form, recipe_build, spec_form
from probes.errors import UsageError
from probes.interventions import Intervention, Spec, intervention, interventions
from probes.recipes import Recipe, recipes

KEY = "recipe_form"
LABELS = ("label", "against")  # options that take a label of the sequences


def form(here: Here) -> tuple[Spec, ...]:
    """Draws the form; the specs once they were looked at and added, else none."""
    left, right = st.columns([0.58, 0.42], gap="large")
    with left:
        declared = _pick()
        action = _action(declared)
        _ask(here, declared, action)
    with right:
        ui.definition([(f"{declared.title}:", f"{declared.does}."), ("Source", declared.source)])
        path, run_id, name, chosen = st.session_state.get(KEY, ("", -1, "", {}))
        if (path, run_id, name) == (here.trace.path, here.run_id, declared.name):
            return _look(here, declared, chosen)
    return ()


def _ask(here: Here, declared: Recipe, action: Intervention | None) -> None:
    """The options; what was asked last is kept, so that it is still there when it is added."""
    with st.form(f"{KEY}_{declared.name}", border=True):
        typed = _options(declared, here)
        if action is not None:
            typed |= _of_action(action, f"{KEY}_{declared.name}_{action.name}", declared)
        wanted = st.form_submit_button("Look whom it names", icon=":material/search:")
    if wanted:
        st.session_state.pop(KEY, None)
        try:
            st.session_state[KEY] = (here.trace.path, here.run_id, declared.name, _changed(declared, typed))
        except UsageError as error:
            ui.problem(str(error))


def _pick() -> Recipe:
    known = recipes()
    name = st.selectbox(
        "Recipe", list(known), index=list(known).index("npmi"), key=f"{KEY}_name",
        format_func=lambda name: f"{known[name].title}  ·  {name}",
    )  # fmt: skip
    return known[name]


def _action(declared: Recipe) -> Intervention | None:
    """What is done to the experts that are named, where the recipe leaves that open."""
    if not declared.action:
        return None
    known = [name for name, one in interventions().items() if one.named == "experts"]
    name = st.selectbox(
        "What is done to them", known, index=known.index(declared.action), key=f"{KEY}_{declared.name}_action",
        format_func=lambda name: f"{interventions()[name].title}  ·  {name}",
    )  # fmt: skip
    return intervention(name)


def _options(declared: Recipe, here: Here) -> dict[str, Any]:
    labels = data.ask(here.trace, "labels", here.run_id)["label"].tolist()
    known = {option.name: labels for option in declared.options if option.name in LABELS} if labels else {}
    return option_form.widgets(declared.options, f"{KEY}_{declared.name}", known)


def _of_action(action: Intervention, key: str, declared: Recipe) -> dict[str, Any]:
    """The action's own options, and its scope; in which layers is a question to the recipe."""
    own = {option.name for option in declared.options}
    typed = option_form.widgets([option for option in action.options if option.name not in own], key)
    with st.expander("Where and when"):
        scope = spec_form.scope(action, f"{key}_scope", None)
    return {"action": action.name, **typed, **scope}


def _changed(declared: Recipe, typed: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is as the records have it: what is left is what the command line would be told."""
    known = list(declared.options)
    if "action" in typed:
        known += intervention(typed["action"]).options
    defaults = {option.name: option.default for option in known}
    defaults |= {"phase": "all", "seed": 0, "probability": 1.0, "action": declared.action}
    typed = {name: value for name, value in option_form.given(typed).items() if value != defaults.get(name)}
    return spec_form.without_files(typed)


def _look(here: Here, declared: Recipe, chosen: dict[str, Any]) -> tuple[Spec, ...]:
    if not here.run["n_tokens"]:
        ui.nothing_yet(here.recording)
        return ()
    found = recipe_build.built(here.trace, here.run_id, declared.name, chosen)
    if isinstance(found, str):
        ui.problem(found)
        return ()
    routers = dict(zip(here.layers["layer"], here.layers["num_experts"], strict=True))
    read = words.sample(found.smallest, command(here, declared.name, chosen)) if found.smallest else ""
    ui.html(f'<p class="rw-says">{escape(recipe_build.says(found.specs, routers))}</p>')
    ui.quiet(f"{read[:1].upper()}{read[1:]}." if read else "From sums stored in the trace.")
    text = recipe_build.preview(found.specs)
    st.code(text, language="yaml", height=min(300, 48 + 24 * text.count("\n")))
    if not st.button("Add to the list", icon=":material/add:", type="primary", key=f"{KEY}_add"):
        return ()
    del st.session_state[KEY]
    return found.specs


def command(here: Here, recipe: str, chosen: Mapping[str, Any]) -> str:
    """The `probe interventions` that asks the whole recording the same."""
    pairs = ",".join(f"{name}={value}" for name, value in chosen.items())
    asked = f"{recipe}:{pairs}" if pairs else recipe
    words = ["probe", "interventions", asked, "--from", here.trace.name, "--run", str(here.run_id)]
    return f"{shlex.join(words)} > spec.yaml"
