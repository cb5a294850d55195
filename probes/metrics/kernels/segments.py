"""Sliding windows over the tokens of a sequence: how often each expert is active inside them."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True, nogil=True)
def flatten(ids: np.ndarray, a: int, b: int, layer: int, num_experts: int, slots: np.ndarray, ends: np.ndarray) -> int:
    """The activations of tokens a..b in listed order, tokens without routing left out; returns how many tokens stay.

    slots gets the ids (of all layers one after another, + layer · E, where layer is -1); ends[i] is where token i's
    begin and ends[i + 1] where they end.
    """
    first, last = (layer, layer + 1) if layer >= 0 else (0, ids.shape[1])
    n, used = 0, 0
    ends[0] = 0
    for t in range(a, b):
        before = used
        for i in range(first, last):
            shift = i * num_experts if layer < 0 else 0
            for r in range(ids.shape[2]):
                e = ids[t, i, r]
                if e >= 0:
                    slots[used] = e + shift
                    used += 1
        if used > before:
            n += 1
            ends[n] = used
    return n


@numba.njit(cache=True, nogil=True)
def window_histograms(
    ids: np.ndarray,
    starts: np.ndarray,
    group: np.ndarray,
    m: int,
    num_experts: int,
    per_expert: bool,
    out: np.ndarray,
) -> None:
    """out[group[s], l, e, f] += windows of m tokens of sequence s in which e is active f times (pooled: e = 0).

    An expert's count changes in few of the steps, so each change adds the stretch of windows it held before. Experts
    that no token chose count too: with f = 0 in every window.
    """
    longest = 1
    for s in range(len(starts) - 1):
        longest = max(longest, starts[s + 1] - starts[s])
    slots, ends = np.empty(longest * ids.shape[2], np.int64), np.empty(longest + 1, np.int64)
    active, since = np.empty(num_experts, np.int64), np.empty(num_experts, np.int64)
    for s in range(len(starts) - 1):
        for i in range(ids.shape[1]):
            n = flatten(ids, starts[s], starts[s + 1], i, num_experts, slots, ends)
            if n >= m:
                _one_sequence(slots, ends, n, m, active, since, per_expert, out[group[s], i])


@numba.njit(cache=True, nogil=True)
def _one_sequence(
    slots: np.ndarray,
    ends: np.ndarray,
    n: int,
    m: int,
    active: np.ndarray,
    since: np.ndarray,
    per_expert: bool,
    out: np.ndarray,
) -> None:
    active[:] = 0
    since[:] = 0
    for p in range(ends[m]):
        active[slots[p]] += 1
    for w in range(1, n - m + 1):
        for p in range(ends[w - 1], ends[w]):
            e = slots[p]
            out[e if per_expert else 0, active[e]] += w - since[e]
            active[e] -= 1
            since[e] = w
        for p in range(ends[w + m - 1], ends[w + m]):
            e = slots[p]
            out[e if per_expert else 0, active[e]] += w - since[e]
            active[e] += 1
            since[e] = w
    for e in range(len(active)):
        out[e if per_expert else 0, active[e]] += n - m + 1 - since[e]


# Without `error_model` every division would look for a zero first; there is none.
@numba.njit(cache=True, nogil=True, error_model="numpy")
def best_f1(histograms: np.ndarray, value: np.ndarray, threshold: np.ndarray) -> None:
    """For each histogram [N, m + 1] over f: the highest 2·TP(j) / max(P(j) + A, 1) over j, and the lowest j with it.

    NaN where there are no windows.
    """
    m = histograms.shape[1] - 1
    for row in range(histograms.shape[0]):
        activations, windows = 0.0, 0.0
        for f in range(m + 1):
            activations += float(f) * histograms[row, f]
            windows += histograms[row, f]
        best, at, true, predicted = -1.0, 0, 0.0, 0.0
        for f in range(m, -1, -1):
            true += float(f) * histograms[row, f]
            predicted += float(m) * histograms[row, f]
            f1 = 2.0 * true / max(predicted + activations, 1.0)
            if f1 >= best:
                best, at = f1, f
        value[row] = best if windows > 0 else np.nan
        threshold[row] = at


@numba.njit(cache=True, nogil=True, error_model="numpy")
def best_f1_of_cells(
    cells: np.ndarray,
    f: np.ndarray,
    bounds: np.ndarray,
    m: int,
    experts: int,
    by_expert: np.ndarray,
    by_layer: np.ndarray,
    by_model: np.ndarray,
) -> None:
    """`best_f1` of histograms [R, cells] that keep only cells used somewhere: row i is cells bounds[i]:bounds[i+1].

    Between two kept values of f the F1 stays the same, so the best threshold is among them. Layers and the model pool
    their experts' histograms.
    """
    rows = len(bounds) - 1
    pooled, whole = np.empty((1, m + 1)), np.empty((1, m + 1))
    value, threshold = np.empty(1), np.empty(1, np.int64)
    for r in range(cells.shape[0]):
        whole[:] = 0
        pooled[:] = 0
        for row in range(rows):
            activations, windows = 0.0, 0.0
            for c in range(bounds[row], bounds[row + 1]):
                v = float(cells[r, c])
                activations += f[c] * v
                windows += v
                pooled[0, f[c]] += v
            # Where there are no activations nothing is ever true, whatever it is divided by.
            best, true, kept, least = 0.0, 0.0, 0.0, max(activations, 1.0)
            for c in range(bounds[row + 1] - 1, bounds[row] - 1, -1):
                v = float(cells[r, c])
                true += f[c] * v
                kept += v
                f1 = true / (m * kept + least)
                if f1 > best:
                    best = f1
            by_expert[r, row] = 2.0 * best if windows > 0 else np.nan
            if (row + 1) % experts == 0:
                best_f1(pooled, value, threshold)
                by_layer[r, row // experts] = value[0]
                whole += pooled
                pooled[:] = 0
        best_f1(whole, value, threshold)
        by_model[r, 0] = value[0]


@numba.njit(cache=True, nogil=True)
def window_ranks(
    ids: np.ndarray, starts: np.ndarray, group: np.ndarray, m: int, num_experts: int, by_layer: bool, out: np.ndarray
) -> None:
    """out[group[s], l, j] += Σ over windows of m tokens of the (j+1)-largest count; the last column counts windows.

    `by_layer` false pools the experts of all layers into row 0. The counts stay sorted while the window slides: one
    more for a value v moves the first of its block up, one less the last of its block down.
    """
    longest = 1
    for s in range(len(starts) - 1):
        longest = max(longest, starts[s + 1] - starts[s])
    rows = ids.shape[1] if by_layer else 1
    size = num_experts if by_layer else num_experts * ids.shape[1]
    slots = np.empty(longest * ids.shape[2] * (1 if by_layer else ids.shape[1]), np.int64)
    ends, active = np.empty(longest + 1, np.int64), np.empty(size, np.int64)
    ordered, above = np.empty(size, np.int64), np.empty(m + 2, np.int64)
    for s in range(len(starts) - 1):
        for i in range(rows):
            n = flatten(ids, starts[s], starts[s + 1], i if by_layer else -1, num_experts, slots, ends)
            if n >= m:
                _ranks_of_sequence(slots, ends, n, m, active, ordered, above, out[group[s], i])


@numba.njit(cache=True, nogil=True)
def _ranks_of_sequence(
    slots: np.ndarray,
    ends: np.ndarray,
    n: int,
    m: int,
    active: np.ndarray,
    ordered: np.ndarray,
    above: np.ndarray,
    out: np.ndarray,
) -> None:
    """`ordered` holds the counts, largest first; above[v] says how many of them are larger than v."""
    active[:] = 0
    ordered[:] = 0
    above[:] = 0
    for w in range(n):
        for p in range(ends[w], ends[w + 1]):
            v = active[slots[p]]
            active[slots[p]] = v + 1
            ordered[above[v]] = v + 1
            above[v] += 1
        if w + 1 < m:
            continue
        for j in range(len(ordered)):
            if ordered[j] == 0:
                break
            out[j] += ordered[j]
        out[len(ordered)] += 1
        first = w + 1 - m
        for p in range(ends[first], ends[first + 1]):
            v = active[slots[p]]
            active[slots[p]] = v - 1
            above[v - 1] -= 1
            ordered[above[v - 1]] = v - 1
