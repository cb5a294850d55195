"""Loops over tokens that NumPy cannot say without large temporaries, compiled once and cached beside this file."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True, nogil=True)
def count_ids(ids: np.ndarray, group: np.ndarray, out: np.ndarray) -> None:
    """out[group[t], l, ids[t, l, r]] += 1; negative ids are left out."""
    tokens, layers, k = ids.shape
    for t in range(tokens):
        g = group[t]
        for i in range(layers):
            for r in range(k):
                e = ids[t, i, r]
                if e >= 0:
                    out[g, i, e] += 1
