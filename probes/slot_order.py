"""The order of slots: descending weight, whatever order the writer had.

Some routers hand their choice over sorted by number or not sorted at all (top-k with `sorted=False`, a mask over the
experts). Weights or logits of the same rows put it right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from probes.pieces import pieces


@dataclass
class Order:
    """How many rows have more than one expert, how many of them were put in order."""

    rows: int = 0
    moved: int = 0


def sort_slots(
    experts: np.ndarray, per_slot: list[np.ndarray], weights: np.ndarray | None, logits: np.ndarray | None
) -> Order:
    """Puts the slots of every row into descending weight, in place; of equal weights the larger logit comes first.

    experts [T, L, k] with empty slots last; per_slot: arrays of the same shape that move along, weights among them;
    logits [T, L, E]. Where weights are NaN or absent, logits order the row. What is equal stays as it was given.
    """
    done = Order()
    if experts.shape[2] < 2 or (weights is None and logits is None):
        return done
    for part in pieces(len(experts), experts.shape[1] * experts.shape[2]):
        ids = experts[part]
        first = _weight_keys(ids, None if weights is None else weights[part])
        second = _logit_keys(ids, None if logits is None else logits[part])
        taken = ids >= 0
        done.rows += int((taken.sum(axis=2) > 1).sum())
        token, layer = np.nonzero(_out_of_order(first, second) & taken[:, :, 0])
        if len(token):
            done.moved += len(token)
            order = np.lexsort((second[token, layer], first[token, layer]), axis=-1)
            for values in (experts, *per_slot):
                rows = values[part][token, layer]
                values[part][token, layer] = np.take_along_axis(rows, order, axis=1)
    return done


def _weight_keys(ids: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """[n, L, k] that ascend where weights descend: equal in rows without weights, infinite in empty slots."""
    taken = ids >= 0
    if weights is None:
        return np.where(taken, 0.0, np.inf)
    keys = -weights.astype(np.float64)
    known = ~(np.isnan(keys) & taken).any(axis=2, keepdims=True)
    return np.where(taken, np.where(known, keys, 0.0), np.inf)


def _logit_keys(ids: np.ndarray, logits: np.ndarray | None) -> np.ndarray:
    """[n, L, k] that ascend where the logits of the chosen descend: equal in rows without logits."""
    if logits is None:
        return np.zeros(ids.shape)
    keys = -np.take_along_axis(logits, ids.clip(min=0).astype(np.intp), axis=2).astype(np.float64)
    known = ~(np.isnan(keys) & (ids >= 0)).any(axis=2, keepdims=True)
    return np.where((ids >= 0) & known, keys, 0.0)


def _out_of_order(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """[n, L] whether any slot should stand before the one on its left."""
    a, b = first[..., :-1], first[..., 1:]
    return ((a > b) | ((a == b) & (second[..., :-1] > second[..., 1:]))).any(axis=2)
