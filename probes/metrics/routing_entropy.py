"""How sure the router is.

One token over four experts, logits ln 2, 0, 0, −∞: probabilities 1/2, 1/4, 1/4, 0, so H = 1.5 ln 2 = 1.039721 nats,
three quarters of ln 4. With two chosen, the margin is 1/4 − 1/4 = 0.

>>> import numpy as np
>>> from probes import metrics
>>> t = metrics.routing_entropy([[0, 1]], num_experts=4, logits=[[np.log(2), 0.0, 0.0, -np.inf]])
>>> t[["entropy_mean", "normalized_mean", "margin_mean"]].round(6).values.tolist()
[[1.039721, 0.75, 0.0]]

Over the chosen: 2/3 and 1/3, H = ln 3 − (2/3) ln 2 = 0.636514.

>>> t = metrics.routing_entropy([[0, 1]], num_experts=4, weights=[[0.5, 0.25]], over="chosen")
>>> float(t.entropy_mean[0].round(6))
0.636514
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from probes.metrics.chunk import About, Chunk, by_group
from probes.metrics.registry import Column, Counts, Metric, Option, Options
from probes.metrics.scores import layer_probabilities
from probes.metrics.tables import axes, coverage, grid, ratio
from probes.scores import UNKNOWN, entropy, margin

if TYPE_CHECKING:
    import pandas as pd


def count(chunk: Chunk, options: Options) -> Counts:
    """Sums over the tokens of each group and layer: H, H², tokens above the threshold, margin; and how many tokens."""
    chosen = options["over"] == "chosen"
    h = chosen_entropy(chunk) if chosen else np.full(chunk.routed.shape, np.nan)
    margins = np.full(chunk.routed.shape, np.nan)
    if chunk.arrays.logits is not None:
        _fill_from_logits(chunk, margins, None if chosen else h)
    most = np.log(np.maximum(chunk.taken.sum(axis=-1), chunk.about.top_k) if chosen else chunk.about.num_experts)
    uncertain = h >= options["threshold"] * most
    sums = {"entropy": h, "entropy_squared": h * h, "uncertain": uncertain & ~np.isnan(h), "margin": margins}
    sums["normalized"] = ratio(h, most)
    counts = {name: by_group(values, chunk.group, chunk.n_groups) for name, values in sums.items()}
    counts["normalized_tokens"] = by_group(~np.isnan(sums["normalized"]), chunk.group, chunk.n_groups)
    counts["n_tokens"] = by_group(~np.isnan(h), chunk.group, chunk.n_groups)
    counts["margin_tokens"] = by_group(~np.isnan(margins), chunk.group, chunk.n_groups)
    return counts


def _fill_from_logits(chunk: Chunk, margins: np.ndarray, h: np.ndarray | None) -> None:
    for i in range(chunk.about.num_layers):
        at, p = layer_probabilities(chunk, i)
        margins[at, i] = margin(p, chunk.experts[at, i].astype(np.intp))
        if h is not None:
            h[at, i] = entropy(p)


def chosen_entropy(chunk: Chunk) -> np.ndarray:
    """[T, L] entropy of the chosen weights, renormalised to sum 1."""
    assert chunk.arrays.weights is not None
    weights = np.where(chunk.taken, np.asarray(chunk.arrays.weights, np.float64), 0)
    total = weights.sum(axis=-1, keepdims=True)
    p = np.divide(weights, total, out=np.full(weights.shape, np.nan), where=total > 0)
    return np.where(np.isnan(total[..., 0]), np.nan, entropy(p))


def estimate(counts: Counts, options: Options, about: About) -> np.ndarray:
    """entropy_mean [..., L]."""
    return ratio(counts["entropy"], counts["n_tokens"])


def table(counts: Counts, options: Options, about: About) -> pd.DataFrame:
    """One row per layer (and group)."""
    mean, n = estimate(counts, options, about), counts["n_tokens"]
    columns = {
        "entropy_mean": mean,
        "entropy_std": np.sqrt(np.maximum(ratio(counts["entropy_squared"], n) - mean**2, 0)),
        "normalized_mean": ratio(counts["normalized"], counts["normalized_tokens"]),
        "effective_experts": np.exp(mean),
        "margin_mean": ratio(counts["margin"], counts["margin_tokens"]),
        "uncertain_share": ratio(counts["uncertain"], n),
        **coverage(counts),
        "scores": np.broadcast_to(np.array(_scores(options, about), object), n.shape),
    }
    return grid(axes(about, "layer"), columns)


def _scores(options: Options, about: About) -> list[str]:
    """Per layer, what the entropy is of: sigmoid scores compete with nobody until they are divided by their sum."""
    if options["over"] == "chosen":
        return ["chosen weights / sum"] * about.num_layers
    named = {"softmax": "softmax", UNKNOWN: "unknown rule: no scores"}
    return [named.get(rule, f"{rule} / sum") for rule in about.scores]


METRIC = Metric(
    name="routing_entropy",
    title="Routing entropy",
    question="How sure is the router of its choice?",
    formula="H = −Σ p ln p in nats over the scores of all experts (softmax; sigmoid scores are normalised to sum "
    "1); normalized = H / ln E; effective_experts = exp(mean H); margin = lowest chosen score − best "
    "unchosen score; uncertain: H ≥ threshold · ln E. Over the chosen: renormalised weights, and ln k (of "
    "a token with more than k experts, ln of its number)",
    source="GW-MoE, arXiv 2406.12375",
    options=(
        Option("over", str, "all", "all experts, or the chosen with their weights renormalised", ("all", "chosen")),
        Option("threshold", float, 0.77, "share of ln E from which a token counts as uncertain", low=0, high=1),
    ),
    needs=lambda options: ("weights", "logits?") if options["over"] == "chosen" else ("logits",),
    by=("label", "token"),
    columns=(
        Column("layer", "index", "the model's own layer index", 0),
        Column("entropy_mean", "nats", "mean entropy", 0),
        Column("entropy_std", "nats", "population standard deviation over tokens", 0),
        Column("normalized_mean", "ratio", "mean entropy over its largest possible value", 0, 1),
        Column("effective_experts", "experts", "exp of the mean entropy", 1),
        Column(
            "margin_mean", "probability", "mean of lowest chosen minus best unchosen score; null without logits", -1, 1
        ),
        Column("uncertain_share", "share", "tokens at or above the threshold", 0, 1),
        Column("n_tokens", "tokens", "tokens with scores", 0),
        Column("missing_share", "share", "positions without routing or scores", 0, 1),
        Column(
            "scores", "name", "what the entropy is of: softmax, scores that had to be divided by their sum, or none"
        ),
    ),
    count=count,
    table=table,
    estimate=estimate,
    value="entropy_mean",
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
    ends={"uniform": {"normalized_mean": lambda k, e: 1.0}, "one_hot": {"normalized_mean": lambda k, e: 0.0}},
)
