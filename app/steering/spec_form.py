"""The form of an intervention, made from what its record declares: one widget per option, and the scope all share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import streamlit as st

from app.steering import option_form
from probes.errors import UsageError
from probes.interventions import Intervention, Spec, interventions, parse
from probes.interventions.spec import FILES, PHASES

KEY = "spec_form"
LONGEST = 4_000  # characters of a list of specs in the address


def form(declared: Intervention, num_layers: int) -> Spec | UsageError | None:
    """Draws the form. A spec when one was added, what is wrong with it, or None."""
    with st.form(f"{KEY}_{declared.name}", border=True):
        words: dict[str, Any] = {"name": declared.name}
        if declared.named:
            words["experts"] = st.text_input(
                "Experts", key=f"{KEY}_{declared.name}_experts", placeholder="3.7+5.1",
                help="layer.expert, joined by +. An expert without a layer is meant in every layer chosen below.",
            )  # fmt: skip
        words |= option_form.widgets(declared.options, f"{KEY}_{declared.name}")
        with st.expander("Where and when"):
            words |= scope(declared, f"{KEY}_{declared.name}_scope", num_layers)
        if not st.form_submit_button("Add", icon=":material/add:", type="primary"):
            return None
    try:
        return parse(without_files(option_form.given(words)))
    except UsageError as error:
        return error


def pick() -> Intervention:
    """Which intervention it is."""
    known = interventions()
    name = st.selectbox(
        "Intervention",
        list(known),
        index=list(known).index("ban"),
        format_func=lambda name: f"{known[name].title}  ·  {name}",
        key=f"{KEY}_name",
    )
    return known[name]


def scope(declared: Intervention, key: str, num_layers: int | None) -> dict[str, Any]:
    """Where and when it acts. num_layers None: the layers are named elsewhere."""
    left, right = st.columns(2)
    words: dict[str, Any] = {}
    with left:
        if num_layers is not None:
            words["layers"] = st.text_input(
                "Layers", key=f"{key}_layers", placeholder="all", help=f"as in 3 or 0-{num_layers - 1} or 0+2"
            )
        said = "prefill reads the prompt, decode writes"
        words["phase"] = st.segmented_control("Phase", PHASES, default="all", key=f"{key}_phase", help=said)
        words["seed"] = st.number_input("Seed", 0, 2**31 - 1, 0, key=f"{key}_seed", help="of everything random in it")
    if not declared.per_pass:
        with right:
            words |= _tokens(key)
    return words


def _tokens(key: str) -> dict[str, Any]:
    """Which tokens; what acts on whole passes cannot be told."""
    only = "only at these input tokens, joined by +"
    share = "a random share of them, seeded"
    return {
        "positions": st.text_input("Positions", key=f"{key}_positions", placeholder="all", help="as in 0-15"),
        "tokens": st.text_input("Tokens", key=f"{key}_tokens", placeholder="all", help=only),
        "probability": st.number_input("Share of the tokens", 0.01, 1.0, 1.0, key=f"{key}_probability", help=share),
    }


def read(address: Mapping[str, str]) -> tuple[list[Spec], str]:
    """The specs in the address, and what is wrong with them."""
    text = address.get("spec") or ""
    if len(text) > LONGEST:
        return [], f"it has {len(text):,} characters, and may have {LONGEST:,}"
    specs = []
    for part in filter(None, (p.strip() for p in text.split(";"))):
        try:
            specs.append(parse(_named_here(part)))
        except UsageError as error:
            return specs, str(error)
    return specs, ""


def written(specs: list[Spec]) -> str:
    """The specs as the address keeps them; "" where one has no inline form, or all together are too long."""
    texts = [str(spec) for spec in specs]
    together = ";".join(texts)
    return "" if len(together) > LONGEST or any(text.startswith("{") for text in texts) else together


# A command line may name files of interventions and of tables. Whoever looks at a dashboard may not: the files would be
# those of the machine it runs on.
_TABLE_FILE = re.compile(r"(means|members|vectors)\s*=\s*[^\[{,]*\.json\b", re.IGNORECASE)
NO_FILES = "files cannot be named here; give the table itself, as JSON"


def _named_here(part: str) -> str:
    if part.lower().endswith(FILES) or _TABLE_FILE.search(part):
        raise UsageError(NO_FILES)
    return part


def without_files(words: dict[str, Any]) -> dict[str, Any]:
    """The words themselves; UsageError where a table is a file."""
    texts = [words.get(name) for name in ("means", "members", "vectors")]
    if any(str(text).strip().lower().endswith(FILES) for text in texts):
        raise UsageError(NO_FILES)
    return words
