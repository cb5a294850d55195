"""One widget per declared option: of interventions, of recipes, of decoding strategies. The record is all they need."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import streamlit as st

from probes.metrics.registry import Option

NUMBERS = ("int", "float", "finite")
Draw = Callable[[str, str], Any]  # (label, key) -> value


def widgets(options: Sequence[Option], key: str, known: Mapping[str, Sequence[str]] | None = None) -> dict[str, Any]:
    """name -> value as typed, three in a row. known: names to offer for an option; another may be typed."""
    cells = st.columns(max(1, min(3, len(options)))) if options else []
    drawn = {}
    for place, option in enumerate(options):
        with cells[place % len(cells)]:
            drawn[option.name] = widget(option, f"{key}_{option.name}", (known or {}).get(option.name, ()))
    return drawn


def widget(option: Option, key: str, known: Sequence[str] = ()) -> Any:
    """What is typed or chosen for one option; None or "" where it is left open."""
    label = option.name.replace("_", " ")
    if known:
        return st.selectbox(label, list(known), index=None, key=key, help=option.help, accept_new_options=True)
    if option.choices:
        at = list(option.choices).index(option.default) if option.default in option.choices else 0
        return st.selectbox(label, list(option.choices), index=at, key=key, help=option.help)
    if option.kind == "flag":
        return st.checkbox(label, bool(option.default), key=key, help=option.help)
    if option.kind in NUMBERS and not option.repeatable:
        return _number(option, label, key)
    if option.kind in ("str", *NUMBERS):
        several = " (several joined by +)" if option.repeatable and "+" not in option.help else ""
        return st.text_input(label, _typed(option.default), key=key, help=f"{option.help}{several}")
    return st.text_area(label, "", key=key, help=f"{option.help} (a number, a list joined by +, or JSON)", height=68)


def _typed(default: Any) -> str:
    return "+".join(map(str, default)) if isinstance(default, tuple) else str(default or "")


def _number(option: Option, label: str, key: str) -> Any:
    whole = option.kind == "int"
    kind: Any = int if whole else float
    low, high, default = (None if v is None else kind(v) for v in (option.low, option.high, option.default))
    return st.number_input(
        label, min_value=low, max_value=high, value=default, step=1 if whole else None, key=key, help=option.help,
        format=None if whole else "%g",
    )  # fmt: skip


def given(words: Mapping[str, Any]) -> dict[str, Any]:
    """Without what was left open."""
    return {name: value for name, value in words.items() if value not in (None, "")}
