"""How much of one run's routing another run shares: two checkpoints, or before and after a change.

Two of the three experts stay, and none of the three ranks keeps its expert:

>>> from probes import metrics
>>> t = metrics.router_saturation([[0, 1, 2]], num_experts=4, other_experts=[[1, 0, 3]])
>>> t[["saturation", "change_rate", "slot_change"]].round(6).values.tolist()
[[0.666667, 0.333333, 1.0]]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from probes.metrics.chunk import About, Chunk, PairedArrays, by_group
from probes.metrics.registry import Column, Counts, Metric, Options
from probes.metrics.tables import axes, coverage, grid, ratio

if TYPE_CHECKING:
    import pandas as pd


def shared(chunk: Chunk) -> tuple[np.ndarray, np.ndarray]:
    """Positions routed in both runs [T, L], and how many chosen experts they share there [T, L]."""
    assert isinstance(chunk.arrays, PairedArrays)
    a, b = chunk.experts, np.asarray(chunk.arrays.other_experts)
    common = sum((a == b[:, :, r : r + 1]).sum(axis=-1) for r in range(b.shape[2]))
    return chunk.routed & (b[:, :, 0] >= 0), np.asarray(common)


def count(chunk: Chunk, options: Options) -> Counts:
    """common, moved [G, L]: experts in both choices, ranks whose expert differs; n_tokens [G, L] routed in both."""
    assert isinstance(chunk.arrays, PairedArrays)
    both, common = shared(chunk)
    moved = (chunk.experts != np.asarray(chunk.arrays.other_experts)).sum(axis=-1)
    sums = {"common": common * both, "moved": moved * both, "n_tokens": both}
    return {name: by_group(values, chunk.group, chunk.n_groups) for name, values in sums.items()}


def estimate(counts: Counts, options: Options, about: About) -> np.ndarray:
    """saturation [..., L]."""
    return ratio(counts["common"], about.top_k * counts["n_tokens"])


def table(counts: Counts, options: Options, about: About) -> pd.DataFrame:
    """One row per layer."""
    saturation = estimate(counts, options, about)
    slot_change = ratio(counts["moved"], about.top_k * counts["n_tokens"])
    columns = {"saturation": saturation, "change_rate": 1 - saturation, "slot_change": slot_change}
    return grid(axes(about, "layer"), {**columns, **coverage(counts)})


METRIC = Metric(
    name="router_saturation",
    title="Router saturation",
    question="How much of one run's routing does another run share?",
    formula="saturation = mean over tokens of |chosen in run a ∩ chosen in run b| / k; change_rate = 1 − saturation; "
    "slot_change = share of ranks whose expert differs",
    source="OLMoE, arXiv 2409.02060; slot change: LibMoE, arXiv 2411.00918",
    needs=("other_experts",),
    paired=True,
    columns=(
        Column("layer", "index", "the model's own layer index", 0),
        Column("saturation", "share", "of the chosen experts that both runs choose", 0, 1),
        Column("change_rate", "share", "of the chosen experts that changed", 0, 1),
        Column("slot_change", "share", "of the ranks whose expert differs", 0, 1),
        Column("n_tokens", "tokens", "tokens with routing in both runs", 0),
        Column("missing_share", "share", "positions without routing in one of them", 0, 1),
    ),
    count=count,
    table=table,
    estimate=estimate,
    value="saturation",
    laws=("expert_permutation", "token_order", "sequence_order", "range", "additivity", "missing", "duplication"),
    ends={"one_hot": {"saturation": lambda k, e: 1.0, "slot_change": lambda k, e: 0.0}},
)
