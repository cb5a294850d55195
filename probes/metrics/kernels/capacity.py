"""Placing tokens one after another under a capacity."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True, nogil=True)
def reroute(ids: np.ndarray, logits: np.ndarray, group: np.ndarray, limit: np.ndarray, placed: np.ndarray) -> None:
    """placed[g, e] grows by the assignments that find room; ids [T, k] of one layer, logits [T, E], limit [G].

    A chosen expert that is full passes the token on to its best expert (by logits; ties: the lower id) that has room
    and that the token does not use already.
    """
    tokens, k = ids.shape
    experts = placed.shape[1]
    used = np.zeros(experts, np.bool_)
    for t in range(tokens):
        g = group[t]
        if g < 0 or ids[t, 0] < 0:
            continue
        used[:] = False
        for r in range(k):
            if ids[t, r] >= 0:
                used[ids[t, r]] = True
        for r in range(k):
            e = ids[t, r]
            if e < 0:  # a slot that an intervention dropped
                continue
            if placed[g, e] >= limit[g]:
                e = -1
                for x in range(experts):
                    free = not used[x] and placed[g, x] < limit[g]
                    if free and (e < 0 or logits[t, x] > logits[t, e]):
                        e = x
            if e >= 0:
                used[e] = True
                placed[g, e] += 1
