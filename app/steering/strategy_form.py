"""The form of a decoding strategy, made from what its record declares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import streamlit as st

from app import ui
from app.steering import option_form
from probes.errors import UsageError
from probes.interventions.decoding import Plan, Strategy, parse_strategy, strategies

KEY = "strategy_form"
PLAIN = "plain"
ELSEWHERE = (
    "How each token is chosen: by one pass, or by several. Text by a strategy comes from `probe eval` and Python "
    "(`probes.interventions.decoding`). Routers and experts are tuned from Python: `probes.interventions.adaptation`."
)
FROM_TASKS = "references"  # prompts with targets: those of the tasks, of which none is its own reference


def pick() -> Strategy:
    """Which strategy it is; plain decoding unless another is chosen."""
    known = strategies()
    names = [PLAIN, *(name for name in known if name != PLAIN)]
    shown = {name: f"{known[name].title}  ·  {name}" for name in names}
    name = st.selectbox("Decoding", names, format_func=shown.__getitem__, key=f"{KEY}_name", help=ELSEWHERE)
    return known[name]


def form(declared: Strategy) -> dict[str, Any] | None:
    """Draws the options and what the strategy is; what was typed, None for plain decoding."""
    if declared.name == PLAIN:
        return None
    left, right = st.columns([0.58, 0.42], gap="large")
    with left, st.container(border=True):
        shown = [option for option in declared.options if option.name != FROM_TASKS]
        typed = option_form.given(option_form.widgets(shown, f"{KEY}_{declared.name}"))
    with right:
        own = ("References", "the tasks themselves; no item is its own.") if _refers(declared) else None
        what = [(f"{declared.title}:", f"{declared.does}."), ("Formula", declared.formula), ("Cost", declared.cost)]
        ui.definition([*what, *([own] if own else []), ("Source", declared.source)])
    return typed


def plan(declared: Strategy, typed: dict[str, Any] | None, tasks: Path) -> Plan | None:
    """The strategy with its options, over these tasks. UsageError for what does not fit."""
    if typed is None:
        return None
    words = {"name": declared.name, **typed, **({FROM_TASKS: str(tasks)} if _refers(declared) else {})}
    found = parse_strategy(words)
    if found.is_plain:
        raise UsageError(f"{found} is plain decoding: nothing to compare")
    return found


def _refers(declared: Strategy) -> bool:
    return any(option.name == FROM_TASKS for option in declared.options)
