"""Two texts beside each other, and the tables of what an intervention did to one prompt."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from app import data
from app.components.token_text import legible, visible
from app.formats import control_name, percent, plural
from app.pages import Here

NAMES = {"baseline": "Baseline", "steered": "Steered"}
BEGINNING = 400  # characters of a sequence offered as a prompt


class Places:
    """The two columns that texts are written into while the model runs."""

    def __init__(self) -> None:
        self._status: Any = st.empty()
        columns = st.columns(2, gap="medium")
        self._text = {name: column.empty() for name, column in zip(NAMES, columns, strict=True)}

    def wait(self, ahead: int) -> None:
        """Somebody else uses the model."""
        self.say(f"waiting for the model: {plural(ahead, 'person', 'people')} before you")

    def say(self, text: str) -> None:
        self._status.html(f'<span class="rw-quiet" role="status">{escape(text)} …</span>')

    def start(self) -> None:
        self.say("running")

    def show(self, side: str, text: str) -> None:
        self.say(f"{NAMES[side].lower()} is written")
        self._text[side].html(_card(NAMES[side], escape(text) + '<span class="rw-cursor"></span>'))

    def clear(self) -> None:
        for place in (self._status, *self._text.values()):
            place.empty()


def places() -> Places:
    """Room for what is being written."""
    return Places()


def start_of(here: Here, sequence: int | None) -> str:
    """The beginning of the sequence chosen on another page, as a prompt; "" where none was."""
    if sequence is None:
        return ""
    rows = data.ask(here.trace, "sequence", here.run_id, sequence)
    text = rows["beginning"].iloc[0] if len(rows) else None
    return text[:BEGINNING] if isinstance(text, str) else ""


def says(found: Any) -> str:
    """Whether and where the two texts part."""
    if not found.differences:
        return "Both write the same text."
    first = found.differences[0].baseline_span[0]
    return f"They agree on the first {plural(first, 'token')}, then differ." if first else "They differ from the start."


def texts(found: Any) -> str:
    """Both texts with what only one of them has marked, as escaped HTML."""
    cards = [_card(NAMES[name], _marked(getattr(found, name), found.differences, name)) for name in NAMES]
    return f'<div class="rw-sides">{"".join(cards)}</div>'


def _card(title: str, body: str) -> str:
    return f'<div class="rw-side"><h3>{escape(title)}</h3><div class="rw-side-text" dir="auto">{body}</div></div>'


def _marked(side: Any, differences: Any, name: str) -> str:
    different: set[int] = set()
    for part in differences:
        different.update(range(*getattr(part, f"{name}_span")))
    pieces = [
        f"<mark>{_shown(token)}</mark>" if place in different else _shown(token)
        for place, token in enumerate(side.tokens)
    ]
    end = "" if side.finished else '<span class="rw-quiet"> … cut at the most tokens</span>'
    return "".join(pieces) + end


def _shown(token: str) -> str:
    """Lines and spaces as they are, where there is more than these; what could turn the text around as marks."""
    lines = token.split("\n") if token.strip() else [token]
    return escape("\n".join(legible(line) if line else "" for line in lines))


def token_table(found: Any) -> pd.DataFrame:
    """position, token, generated, logprob, steered_logprob, kl (nats), predicted …, layers rerouted, per token."""
    rows = [
        {
            "position": t.position,
            "token": visible(t.token),
            "generated": t.generated,
            "logprob": _value(t.logprob),
            "steered_logprob": _value(t.steered_logprob),
            "kl": _value(t.kl),
            "predicted": t.predicted,
            "steered_predicted": t.steered_predicted,
            "layers_rerouted": None if t.changed_layers is None else ", ".join(map(str, t.changed_layers)),
        }
        for t in found.tokens
    ]
    return pd.DataFrame(rows)


def layer_table(found: Any, controls: list[Any]) -> pd.DataFrame:
    """layer, n_tokens, changed, share, control (mean share under the controls)."""
    shares = [{layer.layer: layer.share for layer in control.layers} for control in controls]
    rows = []
    for layer in found.layers:
        known = [share[layer.layer] for share in shares if layer.layer in share]
        control = float(np.mean(known)) if known else np.nan
        rows.append(
            {"layer": layer.layer, "n_tokens": layer.n_tokens, "changed": layer.changed, "share": layer.share,
             "control": control}
        )  # fmt: skip
    return pd.DataFrame(rows, columns=["layer", "n_tokens", "changed", "share", "control"])


def rerouted(found: Any, controls: list[Any], kind: str) -> str:
    """In a sentence: how many tokens went elsewhere, and whether that is more than chance would do."""
    own = f"{percent(found.changed_share)} of all choices went to another set of experts"
    if not controls:
        return f"{own}."
    mean = float(np.mean([control.changed_share for control in controls]))
    return f"{own}; under {control_name(kind)}s {percent(mean)}."


def _value(value: float | None) -> float:
    return np.nan if value is None else value
