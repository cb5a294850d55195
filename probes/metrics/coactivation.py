"""Which experts are chosen together.

Three tokens, two experts each: {0,1}, {0,1}, {0,2}. Of the three tokens of expert 0, two also choose 1; both of 1
choose 0.

>>> from probes import metrics
>>> t = metrics.coactivation([[0, 1], [1, 0], [0, 2]], num_experts=3)
>>> t[["expert", "other", "n_ij"]].values.tolist()
[[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]]
>>> t.conditional.round(6).tolist()
[0.666667, 0.333333, 1.0, 0.0, 1.0, 0.0]

p(0,1) = 2/3, p(0) = 1, p(1) = 2/3: together exactly as often as alone, lift 1, npmi 0.

>>> t[["lift", "npmi"]].values[0].tolist()
[1.0, 0.0]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from probes.metrics.activations import count_experts, stored_counts
from probes.metrics.chunk import About, Chunk
from probes.metrics.npmi import pmi_npmi
from probes.metrics.registry import Column, Counts, Metric, Option, Options
from probes.metrics.tables import axes, coverage, grid, ratio

if TYPE_CHECKING:
    import pandas as pd


def count(chunk: Chunk, options: Options) -> Counts:
    """chosen [G, L, E] and together [G, L, E, E] (symmetric; zero on the diagonal)."""
    from probes.metrics.kernels.counting import count_pairs

    groups, _, layers, _, experts = chunk.shape
    together = np.zeros((groups, layers, experts, experts), np.int64)
    count_pairs(chunk.experts, chunk.group, options["adjacent_rank"], together)
    return {"chosen": count_experts(chunk), "together": together}


def cells(options: Options, about: About) -> int:
    """How many numbers `count` makes per group."""
    return about.num_layers * about.num_experts * (about.num_experts + 1)


def aggregates(stored: Any, options: Options, about: About) -> Counts | None:
    """The stored pairs are of all positions and all ranks."""
    counts = stored_counts(stored, about)
    pairs = stored.get("coactivation")
    if counts is None or pairs is None or about.by is not None or options["adjacent_rank"]:
        return None
    pairs = np.array(pairs, np.int64)
    pairs[:, np.arange(about.num_experts), np.arange(about.num_experts)] = 0
    return {**counts, "together": pairs[None]}


def estimate(counts: Counts, options: Options, about: About) -> np.ndarray:
    """conditional [..., L, E, E] = n_ij / n_i."""
    return ratio(counts["together"], counts["chosen"][..., None])


def table(counts: Counts, options: Options, about: About) -> pd.DataFrame:
    """One row per (layer, expert, other), expert ≠ other."""
    n_ij, n_i, n_j = counts["together"], counts["chosen"][..., :, None], counts["chosen"][..., None, :]
    n = counts["n_tokens"][:, :, None, None]
    pmi, npmi = pmi_npmi(n_ij, n_i, n_j, n)
    columns = {"n_ij": n_ij, "conditional": estimate(counts, options, about), "lift": np.exp2(pmi), "npmi": npmi}
    frame = grid(axes(about, "layer", "expert", "other"), {**columns, **coverage(counts)})
    return frame[frame["expert"] != frame["other"]]


METRIC = Metric(
    name="coactivation",
    title="Co-activation",
    question="Which experts are chosen together?",
    formula="n_ij = tokens that choose both; conditional = n_ij / n_i; lift = p_ij / (p_i p_j); npmi = log2(lift) "
    "/ −log2 p_ij (n_ij = 0: −1). Adjacent rank: n_ij counts only neighbours in the ranked list, as "
    "OLMoE's published figure does",
    source="OLMoE, arXiv 2409.02060",
    options=(Option("adjacent_rank", bool, False, "count only neighbours in the list of chosen experts"),),
    columns=(
        Column("layer", "index", "the model's own layer index", 0),
        Column("expert", "index", "expert i", 0),
        Column("other", "index", "expert j", 0),
        Column("n_ij", "tokens", "tokens that choose both", 0),
        Column("conditional", "share", "share of i's tokens that also choose j; null if i is never chosen", 0, 1),
        Column("lift", "ratio", "how much more often together than by chance; 1 = chance", 0),
        Column("npmi", "ratio", "normalised pointwise mutual information", -1, 1),
        Column("n_tokens", "tokens", "tokens with routing", 0),
        Column("missing_share", "share", "positions without routing", 0, 1),
    ),
    count=count,
    table=table,
    estimate=estimate,
    aggregates=aggregates,
    sums=("coactivation",),
    cells=cells,
    value="conditional",
    laws=(
        "expert_permutation",
        "empty_slots",
        "rank_order",
        "token_order",
        "sequence_order",
        "range",
        "additivity",
        "missing",
        "duplication",
    ),
    ends={"one_hot": {"lift": lambda k, e: 1.0, "conditional": lambda k, e: 1.0}},
)
