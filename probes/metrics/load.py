"""How evenly the experts are used.

Two tokens, two of three experts each: expert 0 is chosen twice, 1 and 2 once.

>>> from probes import metrics
>>> t = metrics.load(experts=[[0, 1], [0, 2]], num_experts=3)
>>> t[["expert", "count", "share"]].values.tolist()
[[0.0, 2.0, 0.5], [1.0, 1.0, 0.25], [2.0, 1.0, 0.25]]

Counts 2, 1, 1: mean 4/3, std √(2/9), so cv = √2/4; the busiest expert has 1.5 times the mean.

>>> s = metrics.load(experts=[[0, 1], [0, 2]], num_experts=3, summary=True)
>>> s[["cv", "max_over_mean", "gini", "dead_experts"]].round(6).values.tolist()
[[0.353553, 1.5, 0.166667, 0.0]]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from probes.metrics.activations import count_experts
from probes.metrics.chunk import About, Chunk, by_group
from probes.metrics.registry import Column, Counts, Metric, Option, Options
from probes.metrics.scores import layer_probabilities
from probes.metrics.tables import axes, coverage, grid, ratio

if TYPE_CHECKING:
    import pandas as pd


def count(chunk: Chunk, options: Options) -> Counts:
    """chosen [G, L, E]; with logits also probability [G, L, E] (sum of scores) over logit_tokens [G, L]."""
    counts: Counts = {"chosen": count_experts(chunk)}
    if options["summary"] and chunk.arrays.logits is not None:
        counts |= _mean_scores(chunk)
    return counts


def _mean_scores(chunk: Chunk) -> Counts:
    groups, _, layers, _, experts = chunk.shape
    total, n = np.zeros((groups, layers, experts)), np.zeros((groups, layers), np.int64)
    for i in range(layers):
        at, p = layer_probabilities(chunk, i)
        total[:, i] = by_group(p, chunk.group[at], groups)
        n[:, i] = np.bincount(chunk.group[at], minlength=groups)
    return {"probability": total, "logit_tokens": n}


def aggregates(stored: Any, options: Options, about: About) -> Counts | None:
    """The same from the sums kept with the trace; the balance loss of a summary needs Σ probability too."""
    from probes.metrics.activations import stored_counts

    counts = stored_counts(stored, about)
    if counts is not None and options["summary"] and stored.get("sum_probability") is not None:
        return None
    return counts


def estimate(counts: Counts, options: Options, about: About) -> np.ndarray:
    """share [..., L, E], or cv [..., L] of a summary."""
    if options["summary"]:
        return coefficient_of_variation(counts["chosen"])
    return ratio(counts["chosen"], counts["chosen"].sum(axis=-1, keepdims=True))


def table(counts: Counts, options: Options, about: About) -> pd.DataFrame:
    """One row per (layer, expert), or with `summary` per layer."""
    value = estimate(counts, options, about)
    if not options["summary"]:
        columns = {"count": counts["chosen"], "share": value, **coverage(counts)}
        return grid(axes(about, "layer", "expert"), columns)
    chosen = counts["chosen"]
    share = ratio(chosen, chosen.sum(axis=-1, keepdims=True))
    columns = {
        "cv": value,
        "max_over_mean": ratio(chosen.max(axis=-1), chosen.mean(axis=-1)),
        "gini": gini(chosen),
        "entropy_normalized": entropy(share) / (np.log(about.num_experts) if about.num_experts > 1 else np.nan),
        "dead_experts": np.where(chosen.sum(axis=-1) > 0, (chosen == 0).sum(axis=-1), np.nan),
        "balance_loss": balance_loss(counts, share, about.num_experts),
    }
    return grid(axes(about, "layer"), {**columns, **coverage(counts)})


def coefficient_of_variation(chosen: np.ndarray) -> np.ndarray:
    """std (population) over mean of the last axis; NaN where nothing was chosen."""
    return ratio(chosen.std(axis=-1), chosen.mean(axis=-1))


def gini(chosen: np.ndarray) -> np.ndarray:
    """Gini coefficient of the last axis: 0 all equal, (E − 1)/E one expert has all.

    >>> gini(np.array([[0, 0, 0, 4], [1, 1, 1, 1]])).tolist()
    [0.75, 0.0]
    """
    n = chosen.shape[-1]
    ordered = np.sort(chosen, axis=-1)
    return ratio(((2 * np.arange(1, n + 1) - n - 1) * ordered).sum(axis=-1), n * ordered.sum(axis=-1))


def entropy(share: np.ndarray) -> np.ndarray:
    """−Σ p ln p over the last axis in nats; 0·ln 0 = 0; NaN stays NaN."""
    logs = np.log(share, out=np.zeros_like(share), where=share > 0)
    return np.where(np.isnan(share).any(axis=-1), np.nan, -(share * logs).sum(axis=-1))


def balance_loss(counts: Counts, share: np.ndarray, num_experts: int) -> np.ndarray:
    """E · Σ_e f_e P_e: f the share of assignments, P the mean score; NaN without logits. 1 when either is uniform."""
    if "probability" not in counts:
        return np.full(share.shape[:-1], np.nan)
    mean = ratio(counts["probability"], counts["logit_tokens"][..., None])
    return num_experts * (share * mean).sum(axis=-1)


METRIC = Metric(
    name="load",
    title="Load",
    question="How evenly are the experts used?",
    formula="share = count / Σ count; cv = std/mean over experts (population std); max_over_mean; gini; entropy "
    "of the shares / ln E; balance_loss = E·Σ f·P, f = share, P = mean score over the softmax",
    source="straggler factor: arXiv 2503.05066; balance loss: Switch Transformers, arXiv 2101.03961",
    options=(Option("summary", bool, False, "one row per layer instead of one per expert"),),
    needs=lambda options: ("logits?",) if options["summary"] else (),
    columns=(
        Column("layer", "index", "the model's own layer index", 0),
        Column("expert", "index", "expert", 0),
        Column("count", "tokens", "tokens that chose the expert", 0),
        Column("share", "share", "count over all assignments of the layer", 0, 1),
        Column("cv", "ratio", "coefficient of variation of the counts (summary)", 0),
        Column(
            "max_over_mean",
            "ratio",
            "busiest expert over the mean: the straggler factor, all tokens as one batch (summary)",
            1,
        ),
        Column("gini", "ratio", "Gini coefficient of the counts (summary)", 0, 1),
        Column("entropy_normalized", "ratio", "entropy of the shares over ln E (summary)", 0, 1),
        Column("dead_experts", "experts", "experts never chosen (summary)", 0),
        Column("balance_loss", "ratio", "E·Σ f·P; null without logits (summary)", 0),
        Column("n_tokens", "tokens", "tokens with routing", 0),
        Column("missing_share", "share", "positions without routing", 0, 1),
    ),
    count=count,
    table=table,
    estimate=estimate,
    aggregates=aggregates,
    sums=("sum_probability",),
    value="share",
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
    ends={"uniform": {"share": lambda k, e: 1 / e}, "one_hot": {"share": lambda k, e: 1 / k}},
)
