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

`lift` takes a token's choices as independent, so it is below 1 for a random pair: with two of three experts for each
token, loads 2, 2 and 2, a pair is expected in one token of the three, and p_i p_j expects 4/3.

>>> t = metrics.coactivation([[0, 1], [1, 2], [2, 0]], num_experts=3)
>>> t[["lift", "expected", "lift_distinct", "npmi_distinct"]].values[0].round(6).tolist()
[0.75, 0.5, 1.0, 0.0]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from probes.metrics.activations import count_experts, stored_counts
from probes.metrics.chunk import About, Chunk
from probes.metrics.distinct import expected_pairs
from probes.metrics.npmi import pmi_npmi
from probes.metrics.registry import Column, Counts, Metric, Option, Options
from probes.metrics.tables import axes, coverage, grid, ratio

if TYPE_CHECKING:
    import pandas as pd


def count(chunk: Chunk, options: Options) -> Counts:
    """chosen [G, L, E], together [G, L, E, E] (symmetric; zero on the diagonal), sizes [G, L, slots + 1].

    sizes: tokens by how many experts they have.
    """
    from probes.metrics.kernels.counting import count_pairs

    groups, _, layers, _, experts = chunk.shape
    together = np.zeros((groups, layers, experts, experts), np.int64)
    count_pairs(chunk.experts, chunk.group, options["adjacent_rank"], together)
    return {"chosen": count_experts(chunk), "together": together, "sizes": _sizes(chunk)}


def _sizes(chunk: Chunk) -> np.ndarray:
    groups, _, layers, slots, _ = chunk.shape
    layer = np.arange(layers) * (slots + 1)
    cell = chunk.group[:, None].astype(np.int64) * layers * (slots + 1) + layer + chunk.taken.sum(axis=-1)
    return np.bincount(cell.ravel(), minlength=groups * layers * (slots + 1)).reshape(groups, layers, slots + 1)


def cells(options: Options, about: About) -> int:
    """How many numbers `count` makes per group."""
    return about.num_layers * about.num_experts * (about.num_experts + 1) + about.num_layers * (about.width + 1)


def aggregates(stored: Any, options: Options, about: About) -> Counts | None:
    """The stored pairs are of all positions and all ranks. `sizes` of a source counts tokens by their experts."""
    counts = stored_counts(stored, about)
    pairs = stored.get("coactivation")
    if counts is None or pairs is None or about.by is not None or options["adjacent_rank"]:
        return None
    pairs = np.array(pairs, np.int64)
    pairs[:, np.arange(about.num_experts), np.arange(about.num_experts)] = 0
    sizes = _same_size(counts, pairs, about)
    if sizes is None and "sizes" in stored:
        sizes = stored["sizes"]()[None]
    return None if sizes is None else {**counts, "together": pairs[None], "sizes": sizes}


def _same_size(counts: Counts, pairs: np.ndarray, about: About) -> np.ndarray | None:
    """sizes [1, L, slots + 1] where the sums say that every token of a layer has the same number; else None.

    The sums hold Σ k and Σ k(k − 1) over tokens; all k are equal iff n Σ k² = (Σ k)².
    """
    n, slots = counts["n_tokens"][0], counts["chosen"][0].sum(axis=-1)
    if (n * (pairs.sum(axis=(1, 2)) + slots) != slots**2).any():
        return None
    sizes = np.zeros((1, about.num_layers, about.width + 1), np.int64)
    sizes[0, np.arange(about.num_layers), slots // np.maximum(n, 1)] = n
    return sizes


def estimate(counts: Counts, options: Options, about: About) -> np.ndarray:
    """conditional [..., L, E, E] = n_ij / n_i."""
    return ratio(counts["together"], counts["chosen"][..., None])


def _against(n_ij: Any, n_i: Any, n_j: Any, n: Any, expected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """lift_distinct and npmi_distinct; NaN where no such pair is expected.

    npmi_distinct is −1 and 1 where npmi is: divided by −log2 p_ij + log2(p_i p_j n / expected), which is what the
    logarithm of the lift is for a pair that is never apart.
    """
    lift = np.where(expected > 0, ratio(n_ij, expected), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        most = np.log2(n_i * n_j / (np.asarray(n_ij, np.float64) * expected))
        npmi = np.clip(np.log2(lift) / np.where(most > 1e-12, most, np.nan), -1, 1)
    return lift, np.where((n_ij == 0) & (expected > 0), -1.0, npmi)


def table(counts: Counts, options: Options, about: About) -> pd.DataFrame:
    """One row per (layer, expert, other), expert ≠ other."""
    n_ij, n_i, n_j = counts["together"], counts["chosen"][..., :, None], counts["chosen"][..., None, :]
    n = counts["n_tokens"][:, :, None, None]
    pmi, npmi = pmi_npmi(n_ij, n_i, n_j, n)
    columns = {"n_ij": n_ij, "conditional": estimate(counts, options, about), "lift": np.exp2(pmi), "npmi": npmi}
    expected = expected_pairs(counts["chosen"], counts["sizes"], options["adjacent_rank"])
    lift, normalised = _against(n_ij, n_i, n_j, n, expected)
    columns |= {"expected": ratio(expected, n_i), "lift_distinct": lift, "npmi_distinct": normalised}
    frame = grid(axes(about, "layer", "expert", "other"), {**columns, **coverage(counts)})
    return frame[frame["expert"] != frame["other"]]


METRIC = Metric(
    name="coactivation",
    title="Co-activation",
    question="Which experts are chosen together?",
    formula="n_ij = tokens that choose both; conditional = n_ij / n_i; lift = p_ij / (p_i p_j); npmi = log2(lift) "
    "/ −log2 p_ij (n_ij = 0: −1). Both take the choices of a token as independent; they are of k different experts, so "
    "random routing has a lift below 1 (k = 2 of 16, equal loads: 0.53). By chance: a token takes k distinct experts S "
    "with probability ∝ Π w_i over S, k its own number and w solved for the experts' loads (conditional Bernoulli, the "
    "distribution of most entropy; equal loads: k(k−1) / (E(E−1)) of the tokens); expected = tokens that would choose "
    "both / n_i; lift_distinct = conditional / expected; npmi_distinct = log2(lift_distinct) / "
    "(−log2 p_ij + log2(p_i p_j / (p_i · expected))). Adjacent rank: n_ij counts only neighbours in the ranked list, "
    "as OLMoE's published figure does; chance then gives 2/k of a token's pairs",
    source="OLMoE, arXiv 2409.02060; conditional Bernoulli: Chen, Dempster & Liu 1994",
    options=(Option("adjacent_rank", bool, False, "count only neighbours in the list of chosen experts"),),
    columns=(
        Column("layer", "index", "the model's own layer index", 0),
        Column("expert", "index", "expert i", 0),
        Column("other", "index", "expert j", 0),
        Column("n_ij", "tokens", "tokens that choose both", 0),
        Column("conditional", "share", "share of i's tokens that also choose j; null if i is never chosen", 0, 1),
        Column("lift", "ratio", "p_ij / (p_i p_j), as published: 1 if the choices of a token were independent", 0),
        Column("npmi", "ratio", "normalised pointwise mutual information: log2 of lift, normalised", -1, 1),
        Column("expected", "share", "conditional by chance: k distinct experts per token, loads as they are", 0, 1),
        Column("lift_distinct", "ratio", "conditional / expected; 1 = chance, null if expected is 0 (k = 1)", 0),
        Column("npmi_distinct", "ratio", "log2 of lift_distinct, normalised; 0 = chance, 1 = never apart", -1, 1),
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
