"""How much of one run's routing another run shares: two checkpoints, or before and after a change.

Two of the three experts stay, and none of the three ranks keeps its expert:

>>> from probes import metrics
>>> t = metrics.router_saturation([[0, 1, 2]], num_experts=4, other_experts=[[1, 0, 3]])
>>> t[["saturation", "change_rate", "slot_change"]].round(6).values.tolist()
[[0.666667, 0.333333, 1.0]]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from probes.metrics.chunk import About, Chunk, PairedArrays, by_group
from probes.metrics.registry import Column, Counts, Metric, Options
from probes.metrics.tables import axes, coverage, grid, ratio
from probes.routing import NO_EXPERT, was_routed

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Choices:
    """What two runs chose for the same tokens, per position [T, L]. No expert at all counts as one choice.

    both    has routing in both runs
    common  experts that both chose (1 where both have none)
    sizes   how many each of them chose, at least 1
    moved   ranks whose expert differs
    ranks   ranks in which either has an expert, at least 1
    """

    both: np.ndarray
    common: np.ndarray
    sizes: tuple[np.ndarray, np.ndarray]
    moved: np.ndarray
    ranks: np.ndarray

    @property
    def changed(self) -> np.ndarray:
        """The larger number of experts that one run chose and the other did not; 0 outside of `both`."""
        return np.where(self.both, np.maximum(*self.sizes) - self.common, 0)


def choices(chunk: Chunk) -> Choices:
    """Compare the two runs of a chunk."""
    assert isinstance(chunk.arrays, PairedArrays)
    a, b = same_width(chunk.experts, np.asarray(chunk.arrays.other_experts))
    common = np.asarray(sum(((a == b[:, :, r : r + 1]) & (a >= 0)).sum(axis=-1) for r in range(b.shape[2])))
    sizes = (a >= 0).sum(axis=-1), (b >= 0).sum(axis=-1)
    neither = (sizes[0] == 0) & (sizes[1] == 0)
    moved = ((a != b) & ((a >= 0) | (b >= 0))).sum(axis=-1)
    at_least_one = np.maximum(sizes[0], 1), np.maximum(sizes[1], 1)
    both = was_routed(a) & was_routed(b)
    return Choices(both, common + neither, at_least_one, moved, np.maximum(*at_least_one))


def same_width(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two arrays of ids [T, L, slots] with the wider one's number of slots."""
    width = max(a.shape[2], b.shape[2])
    wide = [np.pad(x, ((0, 0), (0, 0), (0, width - x.shape[2])), constant_values=NO_EXPERT) for x in (a, b)]
    return wide[0], wide[1]


def count(chunk: Chunk, options: Options) -> Counts:
    """Over the positions routed in both runs [G, L]: shared (sum of shares), moved, ranks, n_tokens."""
    found = choices(chunk)
    shared = found.common / np.maximum(*found.sizes)
    sums = {"shared": shared, "moved": found.moved, "ranks": found.ranks}
    counts = {name: by_group(values * found.both, chunk.group, chunk.n_groups) for name, values in sums.items()}
    return counts | {"n_tokens": by_group(found.both, chunk.group, chunk.n_groups)}


def estimate(counts: Counts, options: Options, about: About) -> np.ndarray:
    """saturation [..., L]."""
    return ratio(counts["shared"], counts["n_tokens"])


def table(counts: Counts, options: Options, about: About) -> pd.DataFrame:
    """One row per layer."""
    saturation = estimate(counts, options, about)
    slot_change = ratio(counts["moved"], counts["ranks"])
    columns = {"saturation": saturation, "change_rate": 1 - saturation, "slot_change": slot_change}
    return grid(axes(about, "layer"), {**columns, **coverage(counts)})


METRIC = Metric(
    name="router_saturation",
    title="Router saturation",
    question="How much of one run's routing does another run share?",
    formula="saturation = mean over tokens of |chosen in run a ∩ chosen in run b| / k; change_rate = 1 − saturation; "
    "slot_change = share of ranks whose expert differs. Where a run has fewer or more experts for a token than k, k is "
    "the larger of its two numbers; no expert at all is a choice of its own, which only no expert agrees with",
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
    laws=(
        "expert_permutation",
        "empty_slots",
        "self_agreement",
        "token_order",
        "sequence_order",
        "range",
        "additivity",
        "missing",
        "duplication",
    ),
    ends={"one_hot": {"saturation": lambda k, e: 1.0, "slot_change": lambda k, e: 0.0}},
)
