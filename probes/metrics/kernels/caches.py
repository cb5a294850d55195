"""Expert caches of every size at once.

A policy that always evicts the member of lowest priority, by one order that all sizes share, keeps smaller caches
inside larger ones (Mattson et al. 1970): one stack then serves every size, its top C entries being the cache of size C.
FIFO and LIFO do not, and are played out size by size.

Accounting, the same for all: for each token first count the hits of all its experts against the cache as it was before
the token; an expert never seen in the sequence is a hit iff fewer than C distinct experts were seen so far, in listed
order. Then insert the token's experts in listed order; the incoming expert is no candidate for eviction.
"""

from __future__ import annotations

import numba
import numpy as np

from probes.metrics.kernels.segments import flatten

LOOK_AHEAD, LRU, LFU, BELADY, FIFO, LIFO = range(6)
_ONE = 1 << 32


@numba.njit(cache=True, nogil=True)
def cache_hits(
    ids: np.ndarray,
    starts: np.ndarray,
    group: np.ndarray,
    policy: int,
    m: int,
    num_experts: int,
    by_layer: bool,
    sizes: np.ndarray,
    out: np.ndarray,
) -> None:
    """out[group[s], l, c] += hit rate of sequence s with cache size sizes[c]; the last column counts sequences.

    `by_layer` false: one cache for the experts of all layers, in row 0.
    """
    longest = 1
    for s in range(len(starts) - 1):
        longest = max(longest, starts[s + 1] - starts[s])
    rows = ids.shape[1] if by_layer else 1
    size = num_experts if by_layer else num_experts * ids.shape[1]
    slots = np.empty(longest * ids.shape[2] * (1 if by_layer else ids.shape[1]), np.int64)
    ends, hits = np.empty(longest + 1, np.int64), np.empty(size, np.int64)
    for s in range(len(starts) - 1):
        for i in range(rows):
            n = flatten(ids, starts[s], starts[s + 1], i if by_layer else -1, num_experts, slots, ends)
            if n == 0:
                continue
            row = out[group[s], i]
            if policy >= FIFO:
                for c in range(len(sizes)):
                    row[c] += _queue_hits(slots, ends, n, size, sizes[c], policy == LIFO) / ends[n]
            else:
                stack_hits(slots, ends, n, policy, m, hits)
                total, c = 0, 0
                for j in range(size):
                    total += hits[j]
                    while c < len(sizes) and sizes[c] == j + 1:
                        row[c] += total / ends[n]
                        c += 1
            row[len(sizes)] += 1


@numba.njit(cache=True, nogil=True)
def stack_hits(slots: np.ndarray, ends: np.ndarray, n: int, policy: int, m: int, hits: np.ndarray) -> None:
    """hits[j] = hits that a cache of size j + 1 has and one of size j has not.

    Priorities (high stays): LOOK_AHEAD (activations in the next m tokens, then last use); LRU last use; LFU
    (activations so far, then last use); BELADY (nearest next use, then last use).
    """
    size = len(hits)
    hits[:] = 0
    order, place = np.empty(size, np.int64), np.full(size, -1, np.int64)
    priority, waiting = np.empty(size, np.int64), np.zeros(size, np.int64)
    following = _next_use(slots, ends[n], size) if policy == BELADY else np.empty(0, np.int64)
    if policy == LOOK_AHEAD:
        for p in range(ends[min(m, n)]):
            waiting[slots[p]] += 1
    depth, clock = 0, 0
    for t in range(n):
        seen = depth
        for p in range(ends[t], ends[t + 1]):
            x = slots[p]
            if place[x] < 0:
                hits[seen] += 1
                seen += 1
            else:
                hits[place[x]] += 1
        for p in range(ends[t], ends[t + 1]):
            x = slots[p]
            clock += 1
            depth = _to_top(x, order, place, priority, depth)
            if policy == LOOK_AHEAD:
                waiting[x] -= 1
                priority[0] = waiting[x] * _ONE + clock
            elif policy == LFU:
                waiting[x] += 1
                priority[0] = waiting[x] * _ONE + clock
            elif policy == BELADY:
                priority[0] = -following[p] * _ONE + clock
            else:
                priority[0] = clock
        if policy == LOOK_AHEAD and t + m < n:
            for p in range(ends[t + m], ends[t + m + 1]):
                x = slots[p]
                waiting[x] += 1
                if place[x] >= 0:
                    priority[place[x]] += _ONE


@numba.njit(cache=True, nogil=True)
def _to_top(x: int, order: np.ndarray, place: np.ndarray, priority: np.ndarray, depth: int) -> int:
    """Puts x on top; on the way to x's old place every level keeps the better of what it has and what comes down."""
    p = place[x]
    if p < 0:
        p = depth
        depth += 1
    if p > 0:
        carried, low = order[0], priority[0]
        for j in range(1, p):
            if priority[j] < low:
                order[j], carried = carried, order[j]
                priority[j], low = low, priority[j]
                place[order[j]] = j
        order[p], priority[p] = carried, low
        place[carried] = p
    order[0] = x
    place[x] = 0
    return depth


@numba.njit(cache=True, nogil=True)
def _next_use(slots: np.ndarray, n: int, size: int) -> np.ndarray:
    """[n] the slot of the next activation of the same expert; n where there is none."""
    following, at = np.empty(n, np.int64), np.full(size, n, np.int64)
    for p in range(n - 1, -1, -1):
        following[p] = at[slots[p]]
        at[slots[p]] = p
    return following


@numba.njit(cache=True, nogil=True)
def _queue_hits(slots: np.ndarray, ends: np.ndarray, n: int, size: int, capacity: int, newest_first: bool) -> int:
    """Hits of one FIFO cache, or of one LIFO cache (evicts what was inserted last)."""
    inside, known = np.zeros(size, np.bool_), np.zeros(size, np.bool_)
    queue = np.empty(capacity, np.int64)
    used, head, seen, hits = 0, 0, 0, 0
    for t in range(n):
        for p in range(ends[t], ends[t + 1]):
            x = slots[p]
            if inside[x]:
                hits += 1
            elif not known[x]:
                hits += seen < capacity
            if not known[x]:
                known[x] = True
                seen += 1
        for p in range(ends[t], ends[t + 1]):
            x = slots[p]
            if inside[x]:
                continue
            if used < capacity:
                at = used
                used += 1
            elif newest_first:
                at = capacity - 1
                inside[queue[at]] = False
            else:
                at = head
                head = (head + 1) % capacity
                inside[queue[at]] = False
            queue[at] = x
            inside[x] = True
    return hits
