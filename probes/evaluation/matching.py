"""Which other sets of experts carry as much as a given one: pure functions over the counts of one layer.

A set fits if its load (the sum of its experts' counts) differs from the given set's by at most a fraction of the
latter. Sets of the same size come first; only where none of them fits, those of the nearest size that has one.
All sets of a size are looked at where there are at most 50,000; of more, some are drawn and led towards the load.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MOST = 50_000  # sets of one size that are looked at one by one
ENOUGH = 200  # sets that a search stops at
STARTS = 400  # sets that a search sets out from

Experts = tuple[int, ...]


@dataclass(frozen=True)
class Sets:
    """What fits. nearest: the set with the nearest load, where none does; every: no set was left unseen."""

    fitting: list[Experts]
    nearest: Experts | None = None
    every: bool = True


def same_size(named: Sequence[int], pool: Sequence[int], rng: np.random.Generator) -> Sets:
    """Sets of as many experts of the pool, whatever they carry; never the named set itself."""
    if math.comb(len(pool), len(named)) <= MOST:
        return Sets(_others(itertools.combinations(sorted(pool), len(named)), named))
    drawn = (tuple(sorted(rng.choice(pool, len(named), replace=False).tolist())) for _ in range(ENOUGH))
    return Sets(_others(dict.fromkeys(drawn), named), every=False)


def same_load(
    named: Sequence[int],
    pool: Sequence[int],
    counts: np.ndarray,
    tolerance: float,
    rng: np.random.Generator,
    *,
    resize: bool = True,
) -> Sets:
    """Sets of the pool whose load is that of `named`, give or take `tolerance` times it; counts [E].

    resize: may it be a set of another size, where none of the same size fits?
    """
    target = int(counts[list(named)].sum())
    every, nearest = True, None
    for sizes in _by_distance(len(named), len(pool), resize):
        fitting: list[Experts] = []
        for size in sizes:
            found = _of_size(named, sorted(pool), counts, size, (target, tolerance), rng)
            fitting += found.fitting
            every &= found.every
            nearest = _nearer([nearest, found.nearest], counts, target)
        if fitting:
            return Sets(fitting, every=every)
    return Sets([], nearest, every)


def fits(load: float, target: float, tolerance: float) -> bool:
    """Is a load near enough? One tenth of nothing is nothing: experts never chosen are matched by such.

    >>> fits(11, 10, 0.1), fits(12, 10, 0.1), fits(1, 0, 0.1)
    (True, False, False)
    """
    return abs(load - target) <= tolerance * target * (1 + 1e-12)


def _by_distance(size: int, most: int, resize: bool) -> list[list[int]]:
    """The sizes to try: its own, then those one away, two away, …"""
    away = range(max(most, size) if resize else 1)
    found = [sorted({size - d, size + d} & set(range(1, most + 1))) for d in away]
    return [sizes for sizes in found if sizes]


def _others(sets: object, named: Sequence[int]) -> list[Experts]:
    return [one for one in sets if set(one) != set(named)]  # type: ignore[attr-defined]


def _nearer(sets: Sequence[Experts | None], counts: np.ndarray, target: int) -> Experts | None:
    known = [one for one in sets if one is not None]
    return min(known, key=lambda one: abs(int(counts[list(one)].sum()) - target), default=None)


def _of_size(
    named: Sequence[int],
    pool: list[int],
    counts: np.ndarray,
    size: int,
    wanted: tuple[int, float],
    rng: np.random.Generator,
) -> Sets:
    """The fitting sets of one size, or else the nearest of that size."""
    target, tolerance = wanted
    out = _out_of_reach(named, pool, counts, size, wanted)
    if out is not None:
        return Sets([], out)
    every = math.comb(len(pool), size) <= MOST
    if every:
        some = _others(itertools.combinations(pool, size), named)
    else:
        some = _others(_search(pool, counts, size, wanted, rng), named)
    fitting = [one for one in some if fits(int(counts[list(one)].sum()), target, tolerance)]
    return Sets(fitting, None if fitting else _nearer(some, counts, target), every)


def _out_of_reach(
    named: Sequence[int], pool: list[int], counts: np.ndarray, size: int, wanted: tuple[int, float]
) -> Experts | None:
    """The lightest set of a size if it is too heavy, the heaviest if it is too light: no other can be nearer."""
    by_load = sorted(pool, key=lambda e: (int(counts[e]), e))
    for end, side in ((by_load[:size], 1), (by_load[len(pool) - size :], -1)):
        load = int(counts[end].sum())
        if side * (load - wanted[0]) > 0 and not fits(load, *wanted) and set(end) != set(named):
            return tuple(sorted(end))
    return None


def _search(
    pool: list[int], counts: np.ndarray, size: int, wanted: tuple[int, float], rng: np.random.Generator
) -> list[Experts]:
    """Sets that were drawn at random and led towards the load, one exchange at a time; each once."""
    found: dict[Experts, bool] = {}
    for _ in range(STARTS):
        order = rng.permutation(pool)
        one = _led(order[:size], order[size:], counts, wanted)
        found[one] = fits(int(counts[list(one)].sum()), *wanted)
        if sum(found.values()) >= ENOUGH:
            break
    return list(found)


def _led(inside: np.ndarray, outside: np.ndarray, counts: np.ndarray, wanted: tuple[int, float]) -> Experts:
    """The set after exchanges that each bring its load nearer, until it fits or none does."""
    target, tolerance = wanted
    inside, outside = inside.copy(), outside.copy()
    for _ in range(4 * len(inside) + 4):
        load = int(counts[inside].sum())
        if fits(load, target, tolerance) or not len(outside):
            break
        after = np.abs(load - counts[inside][:, None] + counts[outside][None, :] - target)
        i, j = np.unravel_index(int(after.argmin()), after.shape)
        if after[i, j] >= abs(load - target):
            break
        inside[i], outside[j] = outside[j], inside[i]
    return tuple(sorted(inside.tolist()))
