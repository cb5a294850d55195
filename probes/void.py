"""Rows in which a router said nothing: logits that are all -inf, or all NaN, choose no expert.

`topk` gives ids for them all the same, the first ones or whichever; they are no choice.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from probes.routing import NO_EXPERT, PER_SLOT, RoutingArrays

ALL_INFINITE = "its router's logits are all -inf"
ALL_NAN = "its router's logits are all NaN"


def all_infinite(logits: Any) -> np.ndarray:
    """bool [...]: of logits [..., E] the rows that are -inf throughout."""
    values = np.asarray(logits)
    # The largest decides: one pass without a mask of the size of the logits.
    return np.isneginf(values.max(axis=-1)) if values.shape[-1] else np.zeros(values.shape[:-1], bool)


def all_nan(logits: Any) -> np.ndarray:
    """bool [...]: the rows that are NaN throughout."""
    return np.isnan(np.asarray(logits)).all(axis=-1)


def cleared(arrays: RoutingArrays) -> RoutingArrays:
    """The arrays with the rows whose logits are all -inf as missing; NaN rows are logits that were not kept."""
    if arrays.logits is None or not (void := all_infinite(arrays.logits)).any():
        return arrays
    changed = {name: _without(getattr(arrays, name), void, np.nan) for name in ("logits", *PER_SLOT)}
    return replace(arrays, experts=_without(arrays.experts, void, NO_EXPERT), **changed)


def cleared_choice(experts: np.ndarray, logits: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """The same of ids [..., k] and logits [..., E] alone."""
    if logits is None or not (void := all_infinite(logits)).any():
        return experts, logits
    return _without(experts, void, NO_EXPERT), _without(logits, void, np.nan)


def _without(values: Any, rows: np.ndarray, blank: float) -> Any:
    if values is None:
        return None
    kept = np.array(values)
    kept[rows] = blank
    return kept
