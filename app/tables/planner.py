"""What a memory budget for experts buys: how many fit per layer, how often they are hit, what is moved per token.

The same number of experts is kept in every layer. A miss moves one expert over the link; filling an empty cache is not
counted, as in the hit rates themselves. The size of an expert is one number, or one for each layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Plan:
    """cache_size: experts per layer; hit_rate: mean over layers; moved: bytes per token; misses: experts per token."""

    cache_size: int
    hit_rate: float
    misses: float
    moved: float


@dataclass(frozen=True)
class Unit:
    """What memory and traffic are told in: bytes, or experts where nobody knows how large one is."""

    memory: str
    moved: str
    per_memory: float
    per_moved: float


IN_BYTES = Unit("GiB", "MiB", 2**30, 2**20)
IN_EXPERTS = Unit("experts", "experts", 1, 1)


def sizes(experts: int, most: int = 14) -> tuple[int, ...]:
    """Cache sizes to compute: all of them where they are few, else ever wider steps; always 1 and all.

    >>> sizes(8), sizes(64)
    ((1, 2, 3, 4, 5, 6, 7, 8), (1, 2, 3, 4, 6, 8, 11, 15, 21, 29, 40, 55, 64))
    """
    if experts <= most + 2:
        return tuple(range(1, experts + 1))
    found = np.unique(np.round(np.geomspace(1, experts, most + 1)).astype(int))
    return tuple(int(size) for size in found)


def hit_rates(rates: pd.DataFrame, cache_sizes: np.ndarray) -> np.ndarray:
    """[L, N] the hit rate of each layer with each number of experts, between computed sizes on a straight line.

    `rates`: layer, cache_size, hit_rate of one policy. No room, no hit.
    """
    grid = rates.pivot(index="layer", columns="cache_size", values="hit_rate").sort_index(axis=1)
    known = np.array([0, *grid.columns], float)
    return np.stack([np.interp(cache_sizes, known, [0.0, *row]) for row in grid.to_numpy()])


def plan(rates: pd.DataFrame, top_k: np.ndarray, experts: int, expert_bytes: float | np.ndarray, budget: float) -> Plan:
    """What `budget` bytes buy. `rates`: layer, cache_size, hit_rate of a policy; `top_k` [L]; `experts` of a layer."""
    cache_size = min(experts, int(budget // total(expert_bytes, len(top_k))))
    row = curve(rates, top_k, experts, expert_bytes).iloc[cache_size]
    return Plan(cache_size, float(row["hit_rate"]), float(row["misses"]), float(row["moved"]))


def total(expert_bytes: float | np.ndarray, layers: int) -> float:
    """Bytes of one expert in every layer."""
    return float(np.broadcast_to(expert_bytes, (layers,)).sum())


def curve(rates: pd.DataFrame, top_k: np.ndarray, experts: int, expert_bytes: float | np.ndarray) -> pd.DataFrame:
    """cache_size, budget, moved, misses, hit_rate for every number of experts per layer from none to all."""
    sizes = np.arange(experts + 1)
    hits = hit_rates(rates, sizes)
    hits[:, -1] = 1.0  # all experts are there: nothing is ever moved
    misses = top_k[:, None] * (1 - hits)
    moved = np.broadcast_to(expert_bytes, (len(top_k),)) @ misses
    columns = {"cache_size": sizes, "budget": sizes * total(expert_bytes, len(top_k)), "moved": moved}
    return pd.DataFrame({**columns, "misses": misses.sum(axis=0), "hit_rate": top_k @ hits / top_k.sum()})


def smallest(frame: pd.DataFrame, hit_rate: float) -> float:
    """The least budget in bytes that reaches this hit rate; `frame`: from `curve`."""
    enough = frame[frame["hit_rate"] >= hit_rate]
    return float(enough["budget"].min())
