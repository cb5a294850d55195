"""Loops over tokens that NumPy cannot say without large temporaries, compiled once and cached beside this file."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True, nogil=True)
def count_ids(ids: np.ndarray, group: np.ndarray, out: np.ndarray) -> None:
    """out[group[t], l, ids[t, l, r]] += 1; negative ids and groups are left out."""
    tokens, layers, k = ids.shape
    for t in range(tokens):
        g = group[t]
        if g < 0:
            continue
        for i in range(layers):
            for r in range(k):
                e = ids[t, i, r]
                if e >= 0:
                    out[g, i, e] += 1


@numba.njit(cache=True, nogil=True)
def count_pairs(ids: np.ndarray, group: np.ndarray, adjacent: bool, out: np.ndarray) -> None:
    """out[g, l, i, j] += 1 and out[g, l, j, i] += 1 for every pair a token chose (only neighbours if `adjacent`)."""
    tokens, layers, k = ids.shape
    for t in range(tokens):
        g = group[t]
        if g < 0:
            continue
        for i in range(layers):
            for r in range(k):
                a = ids[t, i, r]
                for q in range(r + 1, min(k, r + 2) if adjacent else k):
                    b = ids[t, i, q]
                    if a >= 0 and b >= 0:
                        out[g, i, a, b] += 1
                        out[g, i, b, a] += 1


@numba.njit(cache=True, nogil=True)
def count_transitions(ids: np.ndarray, group: np.ndarray, step: int, out: np.ndarray) -> None:
    """out[g, l, a, b] += 1 for every expert a of layer l and b of layer l + step that one token chose."""
    tokens, layers, k = ids.shape
    for t in range(tokens):
        g = group[t]
        if g < 0:
            continue
        for i in range(layers - step):
            for r in range(k):
                a = ids[t, i, r]
                if a < 0:
                    continue
                for q in range(k):
                    b = ids[t, i + step, q]
                    if b >= 0:
                        out[g, i, a, b] += 1
