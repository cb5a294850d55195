"""Does the router prefer the experts that say most?

One token: the first expert by gate has the second-largest output, and the other way round: ρ = −1.

>>> from probes import metrics
>>> t = metrics.norm_vs_gate([[3, 5]], num_experts=8, output_norm=[[1.0, 2.0]])
>>> t[["gate_rank", "norm_rank", "n"]].values.tolist()
[[1, 1, 0], [1, 2, 1], [2, 1, 1], [2, 2, 0]]
>>> float(metrics.norm_vs_gate([[3, 5]], num_experts=8, output_norm=[[1.0, 2.0]], summary=True).spearman[0])
-1.0

Of all four experts, with the order of the logits as the order of the gate: norms 1, 2, 4, 3 for gate ranks 1 to 4.

>>> every = dict(logits=[[3.0, 2.0, 1.0, 0.0]], expert_norm=[[1.0, 2.0, 4.0, 3.0]])
>>> t = metrics.norm_vs_gate([[0, 1]], num_experts=4, all_experts=True, **every)
>>> t[t.n > 0][["gate_rank", "norm_rank"]].values.tolist()
[[1, 4], [2, 3], [3, 1], [4, 2]]
>>> t = metrics.norm_vs_gate([[0, 1]], num_experts=4, all_experts=True, summary=True, **every)
>>> float(t.spearman.round(6)[0])
-0.8
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from probes.metrics.chunk import About, Chunk
from probes.metrics.registry import Column, Counts, Metric, Option, Options
from probes.metrics.tables import axes, coverage, grid, ratio

if TYPE_CHECKING:
    import pandas as pd


def needs(options: Options) -> tuple[str, ...]:
    """Of all experts it takes everyone's norm, and everyone's score, which the logits order as the router does."""
    return ("expert_norm", "logits") if options["all_experts"] else ("output_norm",)


def count(chunk: Chunk, options: Options) -> Counts:
    """Over the tokens with a norm for each of their experts: n_tokens [G, L], and

    ranks [G, L, n, n]: how many have the expert of gate rank i at norm rank j; n = slots, or E for all experts;
    rho, rho_tokens [G, L]: the sum of the tokens' own correlations, and how many have one (two experts or more).
    Equal norms rank in gate order, equal scores by id.
    """
    groups, _, layers, slots, experts = chunk.shape
    n = experts if options["all_experts"] else slots
    counts = {"ranks": np.zeros((groups, layers, n, n), np.int64), "rho": np.zeros((groups, layers))}
    counts |= {"rho_tokens": np.zeros((groups, layers), np.int64), "n_tokens": np.zeros((groups, layers), np.int64)}
    for i in range(layers):
        norms = _by_gate(chunk, i) if options["all_experts"] else np.asarray(chunk.arrays.output_norm)[:, i]
        sizes = np.full(len(norms), n) if options["all_experts"] else chunk.taken[:, i].sum(axis=-1)
        sizes = np.where(chunk.routed[:, i], sizes, 0)
        for size in np.unique(sizes[sizes > 0]):
            at = np.flatnonzero((sizes == size) & ~np.isnan(norms[:, :size]).any(axis=-1))
            _add_ranks(counts, i, norms[at, :size], chunk.group[at])
    return counts


def _add_ranks(counts: Counts, i: int, norms: np.ndarray, group: np.ndarray) -> None:
    """Adds tokens that have the same number of experts, their norms [m, size] in gate order."""
    size = norms.shape[1]
    order = np.argsort(-norms, axis=-1, kind="stable")
    place = np.empty_like(order)
    np.put_along_axis(place, order, np.broadcast_to(np.arange(size), order.shape), axis=-1)
    np.add.at(counts["ranks"][:, i], (group[:, None], np.arange(size)[None], place), 1)
    np.add.at(counts["n_tokens"][:, i], group, 1)
    if size > 1:
        centred = np.arange(size) - (size - 1) / 2
        np.add.at(counts["rho"][:, i], group, (centred * centred[place]).sum(axis=-1) / (centred**2).sum())
        np.add.at(counts["rho_tokens"][:, i], group, 1)


def _by_gate(chunk: Chunk, i: int) -> np.ndarray:
    """[T, E] norms of all experts of a layer, in descending order of their score; NaN where a score is unknown."""
    logits, norms = (np.asarray(values)[:, i] for values in (chunk.arrays.logits, chunk.arrays.expert_norm))
    order = np.argsort(-np.nan_to_num(logits, nan=0.0, neginf=-np.inf), axis=-1, kind="stable")
    known = ~np.isnan(logits).any(axis=-1, keepdims=True)
    return np.where(known, np.take_along_axis(norms, order, axis=-1), np.nan)


def estimate(counts: Counts, options: Options, about: About) -> np.ndarray:
    """share of the gate rank's tokens [..., L, k, k], or spearman [..., L] of a summary."""
    ranks = counts["ranks"]
    if options["summary"]:
        return ratio(counts["rho"], counts["rho_tokens"])
    return ratio(ranks, ranks.sum(axis=-1, keepdims=True))


def table(counts: Counts, options: Options, about: About) -> pd.DataFrame:
    """One row per (layer, gate rank, norm rank), or with `summary` per layer."""
    value = estimate(counts, options, about)
    if options["summary"]:
        return grid(axes(about, "layer"), {"spearman": value, **coverage(counts)})
    ranks = np.arange(1, counts["ranks"].shape[-1] + 1)
    columns = {"n": counts["ranks"], "share": value, **coverage(counts)}
    frame = grid({**axes(about, "layer"), "gate_rank": ranks, "norm_rank": ranks}, columns)
    # A steered run has slots for the most that a token could get; ranks that no token has are no rows.
    least = about.num_experts if options["all_experts"] else about.top_k
    most = max(least, frame["gate_rank"].where(frame["n"] > 0).max())
    return frame[(frame["gate_rank"] <= most) & (frame["norm_rank"] <= most)]


METRIC = Metric(
    name="norm_vs_gate",
    title="Output norm against gate score",
    question="Does the router prefer the experts with the largest outputs?",
    formula="over the chosen experts of each token, or over all E: rank by gate score (1 = highest) against rank by "
    "output norm (1 = largest; equal norms in gate order); spearman = correlation of the two ranks, mean over tokens",
    source="arXiv 2406.18219",
    options=(
        Option("summary", bool, False, "Spearman's correlation, one row per layer"),
        Option("all_experts", bool, False, "rank all E experts and not only the chosen ones"),
    ),
    needs=needs,
    columns=(
        Column("layer", "index", "the model's own layer index", 0),
        Column("gate_rank", "rank", "by gate score, 1 = highest", 1),
        Column("norm_rank", "rank", "by output norm, 1 = largest", 1),
        Column("n", "tokens", "tokens with this pair of ranks", 0),
        Column("share", "share", "of the tokens of this gate rank", 0, 1),
        Column("spearman", "correlation", "−1 opposite, 1 same order; null with one expert per token (summary)", -1, 1),
        Column("n_tokens", "tokens", "tokens with output norms", 0),
        Column("missing_share", "share", "positions without routing or norms", 0, 1),
    ),
    count=count,
    table=table,
    estimate=estimate,
    value="share",
    laws=(
        "expert_permutation",
        "empty_slots",
        "token_order",
        "sequence_order",
        "range",
        "additivity",
        "missing",
        "duplication",
    ),
)
