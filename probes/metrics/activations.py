"""Counting chosen experts: the sum under most metrics."""

from __future__ import annotations

from typing import Any

import numpy as np

from probes.errors import ProbeError
from probes.metrics.chunk import About, Chunk

MOST_CELLS = 250_000_000


def count_experts(chunk: Chunk, first_only: bool = False) -> np.ndarray:
    """[G, L, E] int64: how many tokens of each group chose each expert (as their first, where asked)."""
    ids = chunk.experts[:, :, :1] if first_only else chunk.experts
    return count_ids(ids, chunk.group, chunk.n_groups, chunk.arrays.num_experts)


def count_ids(ids: np.ndarray, group: np.ndarray, n_groups: int, num_experts: int) -> np.ndarray:
    """[G, L, E] int64 from ids [T, L, k] and group [T]; negative ids are left out."""
    from probes.metrics.kernels.counting import count_ids as kernel

    cells = n_groups * ids.shape[1] * num_experts
    if cells > MOST_CELLS:
        raise ProbeError(f"counts of {n_groups:,} tokens take {cells * 4 / 2**30:.1f} GiB; choose fewer --layers")
    # Half the memory where there is a row per vocabulary entry.
    out = np.zeros((n_groups, ids.shape[1], num_experts), np.int32 if cells > 2**24 else np.int64)
    kernel(ids, group, out)
    return out


def stored_counts(stored: Any, about: About) -> dict[str, Any] | None:
    """`chosen` [G, L, E], `n_tokens` [G, L] and `seen` [G] from a trace's sums, pooled unless grouped by label."""
    count, tokens = stored.get("count"), stored.get("tokens")
    if count is None or tokens is None or stored.get("seen") is None or about.by not in (None, "label"):
        return None
    chosen, n_tokens = np.moveaxis(np.asarray(count), 2, 0), np.asarray(tokens).T
    seen = np.asarray(stored["seen"])
    if about.by is None:
        chosen, n_tokens, seen = chosen.sum(0, keepdims=True), n_tokens.sum(0, keepdims=True), seen.sum(keepdims=True)
    return {"chosen": chosen.astype(np.int64), "n_tokens": n_tokens.astype(np.int64), "seen": seen.astype(np.int64)}
