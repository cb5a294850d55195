"""The definitions of some metrics written down in NumPy in the obvious way, as a measure for the real ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def _sequences(experts: np.ndarray, sequence_id: np.ndarray) -> list[np.ndarray]:
    """One array [t, L, k] per sequence."""
    return np.split(experts, np.flatnonzero(np.diff(sequence_id)) + 1)


def srp(experts: np.ndarray, sequence_id: np.ndarray, num_experts: int, m: int) -> np.ndarray:
    """srp of every (layer, expert), every layer, the model: [L·E + L + 1]. NaN without windows."""
    layers = experts.shape[1]
    histograms = np.zeros((layers, num_experts, m + 1), np.int64)
    for ids in _sequences(experts, sequence_id):
        if len(ids) < m:
            continue
        for layer in range(layers):
            active = np.zeros((len(ids) + 1, num_experts), np.int64)
            np.put_along_axis(active[1:], ids[:, layer].astype(np.int64), 1, axis=1)
            total = active.cumsum(axis=0)
            f = total[m:] - total[:-m]
            flat = np.bincount((np.arange(num_experts) * (m + 1) + f).ravel(), minlength=num_experts * (m + 1))
            histograms[layer] += flat.reshape(num_experts, m + 1)
    groups = [*histograms.reshape(-1, m + 1), *histograms.sum(axis=1), histograms.sum(axis=(0, 1))]
    return np.array([_best(windows, m) for windows in groups])


def _best(windows: np.ndarray, m: int) -> float:
    """max_j 2·TP(j) / max(P(j) + A, 1) from the number of windows with f = 0..m activations."""
    if not windows.sum():
        return float("nan")
    positives = m * windows[::-1].cumsum()[::-1]
    hits = (windows * np.arange(m + 1))[::-1].cumsum()[::-1]
    return float((2 * hits / np.maximum(positives + hits[0], 1)).max())


def sch_online(
    experts: np.ndarray, sequence_id: np.ndarray, num_experts: int, m: int, sizes: Sequence[int]
) -> np.ndarray:
    """Mean hit rate over sequences of every (layer, cache size): [L·C]."""
    rates = [
        [[_hit_rate(ids[:, layer], num_experts, m, size) for size in sizes] for layer in range(ids.shape[1])]
        for ids in _sequences(experts, sequence_id)
    ]
    return np.mean(rates, axis=0).ravel()


def _hit_rate(ids: np.ndarray, num_experts: int, m: int, size: int) -> float:
    """One cache played out token by token; evicts the fewest activations ahead, then the least recently used."""
    ahead = np.bincount(ids[:m].ravel(), minlength=num_experts)
    last, inside = np.zeros(num_experts, np.int64), np.zeros(num_experts, bool)
    seen: set[int] = set()
    hits = clock = 0
    for t, chosen in enumerate(ids.tolist()):
        for x in chosen:
            hits += bool(inside[x]) if x in seen else len(seen) < size
            seen.add(x)
        for x in chosen:
            clock += 1
            ahead[x] -= 1
            if not inside[x] and inside.sum() == size:
                members = np.flatnonzero(inside)
                inside[members[np.lexsort((last[members], ahead[members]))[0]]] = False
            inside[x], last[x] = True, clock
        if t + m < len(ids):
            ahead[ids[t + m]] += 1
    return hits / ids.size


def counts(trace: Any) -> tuple[np.ndarray, np.ndarray]:
    """(chosen [G, L, E], tokens [G]) over every row of a trace, labels as groups."""
    chosen = tokens = None
    groups, width = len(trace.label_names()), int(trace.layers().num_experts.max())
    for chunk in trace.chunks(columns=("experts",)):
        ids, label = chunk["experts"].astype(np.int64), chunk["label"].astype(np.int64)
        layers = ids.shape[1]
        place = (label[:, None, None] * layers + np.arange(layers)[:, None]) * width + ids
        found = np.bincount(place.ravel(), minlength=groups * layers * width).reshape(groups, layers, width)
        here = np.bincount(label, minlength=groups)
        chosen, tokens = (found, here) if chosen is None or tokens is None else (chosen + found, tokens + here)
    if chosen is None or tokens is None:
        raise ValueError("the trace is empty")
    return chosen, tokens


def load(trace: Any) -> np.ndarray:
    """Tokens per (layer, expert): [L·E]."""
    return counts(trace)[0].sum(axis=0).ravel().astype(np.float64)


def npmi(trace: Any) -> np.ndarray:
    """nPMI of every (label, layer, expert): [G·L·E]."""
    chosen, tokens = counts(trace)
    total = tokens.sum()
    both, label, expert = chosen / total, tokens[:, None, None] / total, chosen.sum(axis=0) / total
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.log2(both / (label * expert)) / -np.log2(both)
    value = np.where(both == 0, -1.0, value)
    return np.where(np.broadcast_to(expert == 0, value.shape), np.nan, value).ravel()


def coactivation(trace: Any) -> np.ndarray:
    """Tokens that chose both, of every ordered pair of different experts in a layer: [L·E·(E - 1)]."""
    together: np.ndarray | None = None
    width = int(trace.layers().num_experts.max())
    for chunk in trace.chunks(columns=("experts",)):
        ids = chunk["experts"].astype(np.int64)
        active = np.zeros((ids.shape[1], len(ids), width), np.float32)
        np.put_along_axis(active, ids.transpose(1, 0, 2), 1, axis=2)
        found = active.transpose(0, 2, 1) @ active
        together = found if together is None else together + found
    if together is None:
        raise ValueError("the trace is empty")
    return together[:, ~np.eye(width, dtype=bool)].ravel().astype(np.float64)
