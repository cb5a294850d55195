"""The form of an intervention, made from what its record declares: one widget per option, and the scope all share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from probes.errors import UsageError
from probes.interventions import Intervention, Spec, interventions, parse
from probes.interventions.spec import PHASES

KEY = "spec_form"
LONGEST = 4_000  # characters of a list of specs in the address


def form(num_layers: int) -> Spec | UsageError | None:
    """Draws the form. A spec when one was added, what is wrong with it, or None."""
    declared = _pick()
    with st.form(f"{KEY}_{declared.name}", border=True):
        words: dict[str, Any] = {"name": declared.name}
        if declared.named:
            words["experts"] = st.text_input(
                "Experts", key=f"{KEY}_{declared.name}_experts", placeholder="3.7+5.1",
                help="layer.expert, joined by +. An expert without a layer is meant in every layer chosen below.",
            )  # fmt: skip
        words |= _options(declared)
        with st.expander("Where and when"):
            words |= _scope(declared, num_layers)
        if not st.form_submit_button("Add", icon=":material/add:", type="primary"):
            return None
    try:
        return parse({name: value for name, value in words.items() if value not in (None, "")})
    except UsageError as error:
        return error


def _pick() -> Intervention:
    known = interventions()
    name = st.selectbox(
        "Intervention",
        list(known),
        index=list(known).index("ban"),
        format_func=lambda name: f"{known[name].title}  ·  {name}",
        key=f"{KEY}_name",
        help="What can be done to the routing; its definition stands below.",
    )
    return known[name]


def _options(declared: Intervention) -> dict[str, Any]:
    cells = st.columns(max(1, min(3, len(declared.options)))) if declared.options else []
    drawn = {}
    for number, option in enumerate(declared.options):
        with cells[number % len(cells)]:
            drawn[option.name] = _option(option, f"{KEY}_{declared.name}_{option.name}")
    return drawn


def _option(option: Any, key: str) -> Any:
    label = option.name.replace("_", " ")
    if option.choices:
        at = list(option.choices).index(option.default) if option.default in option.choices else 0
        return st.selectbox(label, list(option.choices), index=at, key=key, help=option.help)
    if option.kind == "flag":
        return st.checkbox(label, bool(option.default), key=key, help=option.help)
    if option.kind in ("int", "float", "finite") and not option.repeatable:
        return _number(option, label, key)
    return st.text_area(label, "", key=key, help=f"{option.help} (a number, a list joined by +, or JSON)", height=68)


def _number(option: Any, label: str, key: str) -> Any:
    whole = option.kind == "int"
    kind: Any = int if whole else float
    low, high, default = (None if v is None else kind(v) for v in (option.low, option.high, option.default))
    return st.number_input(
        label, min_value=low, max_value=high, value=default, step=1 if whole else None, key=key, help=option.help,
        format=None if whole else "%g",
    )  # fmt: skip


def _scope(declared: Intervention, num_layers: int) -> dict[str, Any]:
    def key(name: str) -> str:
        return f"{KEY}_{declared.name}_scope_{name}"

    left, right = st.columns(2)
    words: dict[str, Any] = {}
    with left:
        words["layers"] = st.text_input(
            "Layers", key=key("layers"), placeholder="all", help=f"as in 3 or 0-{num_layers - 1} or 0+2"
        )
        said = "prefill reads the prompt, decode writes"
        words["phase"] = st.segmented_control("Phase", PHASES, default="all", key=key("phase"), help=said)
        words["seed"] = st.number_input("Seed", 0, 2**31 - 1, 0, key=key("seed"), help="of everything random in it")
    if declared.per_pass:
        return words
    with right:
        words["positions"] = st.text_input("Positions", key=key("positions"), placeholder="all", help="as in 0-15")
        words["tokens"] = st.text_input(
            "Tokens",
            key=key("tokens"),
            placeholder="all",
            help="only at these input tokens, joined by +",
        )
        words["probability"] = st.number_input(
            "Share of the tokens", 0.01, 1.0, 1.0, key=key("probability"), help="a random share of them, seeded"
        )
    return words


def read(address: Mapping[str, str]) -> tuple[list[Spec], str]:
    """The specs in the address, and what is wrong with them."""
    text = (address.get("spec") or "")[:LONGEST]
    specs = []
    for part in filter(None, (p.strip() for p in text.split(";"))):
        try:
            specs.append(parse(part))
        except UsageError as error:
            return specs, str(error)
    return specs, ""


def written(specs: list[Spec]) -> str:
    """The specs as the address keeps them; "" where one has no inline form."""
    texts = [str(spec) for spec in specs]
    return "" if any(text.startswith("{") for text in texts) else ";".join(texts)
