"""What the colour of a token says: which expert it went to, or how sure the router was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from app.components.token_strip import Shown
from app.components.token_text import visible
from app.formats import count, number, plural
from app.palette import SEQUENTIAL, along, expert_color

LEGEND_EXPERTS = 12


@dataclass(frozen=True)
class By:
    """A way to colour: its title, its unit, what it means, and the value of a row."""

    title: str
    unit: str
    meaning: str
    value: Callable[[Any], float]


@dataclass(frozen=True)
class View:
    """Coloured tokens and the legend that explains them (escaped HTML)."""

    tokens: list[Shown]
    kind: str
    legend: str


def first(values: Any) -> float:
    """The first of a list of numbers; NaN for no list, an empty one or a missing number."""
    return float(values[0]) if _is_list(values) and len(values) and values[0] is not None else float("nan")


def chosen(experts: Any) -> list[int]:
    """The chosen experts in rank order; none where there was no routing."""
    return [int(expert) for expert in experts if expert is not None and expert >= 0] if _is_list(experts) else []


def _is_list(values: Any) -> bool:
    return isinstance(values, list | tuple | np.ndarray)


BY = {
    "expert": By("Expert", "", "the expert with the largest weight", lambda row: first(row.experts)),
    "entropy": By("Entropy", "nats", "of the router's scores: how undecided it was", lambda row: _number(row.entropy)),
    "margin": By("Margin", "", "last chosen score minus best one not chosen", lambda row: _number(row.margin)),
    "weight": By("Weight", "", "of the first expert", lambda row: first(row.weights)),
    "surprisal": By("Surprisal", "nats", "−ln of the probability the model gave it", lambda row: -_number(row.logprob)),
}


def colored(window: pd.DataFrame, by: str, num_experts: int, theme: str, only: int | None = None) -> View:
    """The tokens of a window (rows of `page_queries.tokens`) in their colours.

    `only` fades the tokens that did not choose that expert in any rank.
    """
    rows = list(window.itertuples())
    values = np.array([BY[by].value(row) for row in rows])
    faded = [only is not None and only not in chosen(row.experts) for row in rows]
    if by == "expert":
        colors = [None if value != value or value < 0 else expert_color(int(value), num_experts) for value in values]
        legend = _experts_legend(values, num_experts)
    else:
        low, high = _ends(values)
        colors = along((values - low) / (high - low), theme)
        legend = _amount_legend(BY[by], low, high, values, theme)
    shown = [_shown(*entry) for entry in zip(rows, colors, faded, strict=True)]
    if only is not None:
        hits = f"{plural(len(rows) - sum(faded), 'token')} of {count(len(rows))} chose expert {only}"
        legend += f'<span class="rw-key">{hits}</span>'
    return View(shown, "category" if by == "expert" else "amount", f'<div class="rw-legend">{legend}</div>')


def _shown(row: Any, color: str | None, faded: bool) -> Shown:
    return Shown(
        int(row.position), row.token if isinstance(row.token, str) else f"[{row.token_id}]", color, _note(row), faded
    )


def _note(row: Any) -> str:
    """What a token says when pointed at, and to a screen reader."""
    text = visible(row.token) if isinstance(row.token, str) else f"id {row.token_id}"
    experts = chosen(row.experts)
    parts = [f"{text}, position {row.position}"]
    if experts:
        parts.append(f"experts {', '.join(map(str, experts))}" if len(experts) > 1 else f"expert {experts[0]}")
    else:
        reason = row.missing_reason if isinstance(row.missing_reason, str) else "not recorded"
        parts.append(f"no routing: {reason}")
    for name, value in (("weight", first(row.weights)), ("entropy", _number(row.entropy))):
        if value == value:
            parts.append(f"{name} {number(value)}")
    return " · ".join(parts)


def _ends(values: np.ndarray) -> tuple[float, float]:
    """The range of the scale; never empty, so that equal values get the same colour instead of an error."""
    known = values[~np.isnan(values)]
    if not len(known):
        return 0.0, 1.0
    low, high = float(known.min()), float(known.max())
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _experts_legend(values: np.ndarray, num_experts: int) -> str:
    experts, counts = np.unique(values[values >= 0].astype(int), return_counts=True)
    order = np.argsort(-counts, kind="stable")
    keys = [
        f'<span class="rw-key"><i style="background:{expert_color(int(experts[at]), num_experts)}"></i>'
        f"{experts[at]}<small>{count(int(counts[at]))}</small></span>"
        for at in order[:LEGEND_EXPERTS]
    ]
    rest = len(order) - LEGEND_EXPERTS
    if rest > 0:
        keys.append(f'<span class="rw-key"><small>and {plural(rest, "other expert")}</small></span>')
    return '<span class="rw-key"><small>expert of largest weight · tokens here</small></span>' + "".join(keys)


def _amount_legend(by: By, low: float, high: float, values: np.ndarray, theme: str) -> str:
    if not (~np.isnan(values)).any():
        return f'<span class="rw-key">No {escape(by.title.lower())} here: it needs what was not recorded.</span>'
    ramp = f'<b class="rw-ramp" style="background:linear-gradient(90deg, {", ".join(SEQUENTIAL[theme])})"></b>'
    unit = f" {by.unit}" if by.unit else ""
    return (
        f'<span class="rw-key"><small>{escape(by.title)}, {escape(by.meaning)}</small></span>'
        f'<span class="rw-key">{number(low)}{ramp}{number(high)}{unit}</span>'
    )


def _number(value: Any) -> float:
    return float("nan") if value is None or value is pd.NA else float(value)
