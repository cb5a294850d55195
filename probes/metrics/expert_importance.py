"""Which experts matter, by the criteria that pruning papers use.

Two tokens of two experts: expert 0 twice with weights 0.6 and 0.5 and outputs of norm 1 and 3, expert 1 once.

>>> from probes import metrics
>>> args = dict(experts=[[0, 1], [0, 2]], num_experts=3, weights=[[0.6, 0.4], [0.5, 0.5]])
>>> args["output_norm"] = [[1.0, 2.0], [3.0, 1.0]]
>>> t = metrics.expert_importance(**args, criterion=["frequency", "soft_frequency", "ean", "reap"])
>>> t[t.expert == 0][["criterion", "importance", "rank"]].values.tolist()
[['frequency', 2.0, 1], ['soft_frequency', 1.1, 1], ['ean', 4.0, 1], ['reap', 1.05, 1]]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from probes.metrics.activations import count_experts
from probes.metrics.chunk import About, Chunk
from probes.metrics.registry import Column, Counts, Metric, Option, Options
from probes.metrics.tables import axes, coverage, grid, ratio

if TYPE_CHECKING:
    import pandas as pd

NEEDS = {
    "frequency": (),
    "soft_frequency": ("weights",),
    "ean": ("output_norm",),
    "ean_mean": ("output_norm",),
    "reap": ("weights", "output_norm"),
    "max_activation": ("output_absmax",),
}


def needs(options: Options) -> tuple[str, ...]:
    """The arrays of the criteria asked for."""
    return tuple(dict.fromkeys(name for criterion in options["criterion"] for name in NEEDS[criterion]))


def count(chunk: Chunk, options: Options) -> Counts:
    """chosen [G, L, E]; sums [G, L, E] of weight, norm and weight·norm with the assignments they are over; maxima."""
    counts: Counts = {"chosen": count_experts(chunk)}
    arrays, wanted = chunk.arrays, set(options["criterion"])
    if "soft_frequency" in wanted:
        counts["weight"], _ = _sums(chunk, np.asarray(arrays.weights, np.float64))
    if wanted & {"ean", "ean_mean"}:
        counts["norm"], counts["n_norm"] = _sums(chunk, np.asarray(arrays.output_norm, np.float64))
    if "reap" in wanted:
        product = np.asarray(arrays.weights, np.float64) * np.asarray(arrays.output_norm, np.float64)
        counts["product"], counts["n_product"] = _sums(chunk, product)
    if "max_activation" in wanted:
        counts["max_absmax"] = _maxima(chunk)
    return counts


def _cells(chunk: Chunk, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flat index of (group, layer, expert) and value of every assignment whose value is known."""
    _, _, layers, _, experts = chunk.shape
    cell = (chunk.group[:, None, None] * layers + np.arange(layers)[None, :, None]) * experts + chunk.experts
    known = (chunk.experts >= 0) & ~np.isnan(values)
    return cell[known], values[known]


def _sums(chunk: Chunk, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    groups, _, layers, _, experts = chunk.shape
    cell, known = _cells(chunk, values)
    size = groups * layers * experts
    total, n = np.bincount(cell, weights=known, minlength=size), np.bincount(cell, minlength=size)
    return total.reshape(groups, layers, experts), n.reshape(groups, layers, experts)


def _maxima(chunk: Chunk) -> np.ndarray:
    groups, _, layers, _, experts = chunk.shape
    out = np.full(groups * layers * experts, np.nan)
    np.fmax.at(out, *_cells(chunk, np.asarray(chunk.arrays.output_absmax, np.float64)))
    return out.reshape(groups, layers, experts)


def importance(counts: Counts, criterion: str) -> np.ndarray:
    """[..., L, E]; NaN where the criterion says nothing about an expert that was never chosen."""
    if criterion == "frequency":
        return np.asarray(counts["chosen"], np.float64)
    if criterion == "soft_frequency":
        return counts["weight"]
    if criterion == "ean":
        return counts["norm"]
    if criterion == "ean_mean":
        return ratio(counts["norm"], counts["n_norm"])
    return ratio(counts["product"], counts["n_product"]) if criterion == "reap" else counts["max_absmax"]


def estimate(counts: Counts, options: Options, about: About) -> np.ndarray:
    """importance [..., L, criterion, E]."""
    return np.stack([importance(counts, criterion) for criterion in options["criterion"]], axis=-2)


def ranks(values: np.ndarray) -> np.ndarray:
    """1 = most important along the last axis; equals by lower id, unknown last.

    >>> ranks(np.array([2.0, np.nan, 5.0, 2.0])).tolist()
    [2, 4, 1, 3]
    """
    order = np.argsort(-np.nan_to_num(values, nan=-np.inf), axis=-1, kind="stable")
    out = np.empty_like(order)
    np.put_along_axis(out, order, np.broadcast_to(np.arange(1, values.shape[-1] + 1), order.shape), axis=-1)
    return out


def table(counts: Counts, options: Options, about: About) -> pd.DataFrame:
    """One row per (layer, criterion, expert)."""
    values = estimate(counts, options, about)
    rank = ranks(values)
    columns = {"importance": values, "rank": rank}
    if options["keep"] is not None:
        columns["keep"] = rank <= np.ceil(options["keep"] * about.num_experts)
    if options["alpha"] is not None:
        fair = counts["n_tokens"][..., None] * about.top_k / about.num_experts
        pruned = counts["chosen"] < fair * options["alpha"]
        columns["pruned"] = np.broadcast_to(pruned[:, :, None, :], values.shape)
    names = {**axes(about, "layer"), "criterion": options["criterion"], "expert": np.arange(about.num_experts)}
    frame = grid(names, {**columns, **coverage(counts)})
    by = [about.by] if about.by else []
    return frame[[*by, "layer", "expert", "criterion", *(c for c in frame.columns if c not in names)]]


METRIC = Metric(
    name="expert_importance",
    title="Expert importance",
    question="Which experts matter, and which could be pruned?",
    formula="frequency: count; soft_frequency: Σ weight; ean: Σ‖o‖, ean_mean its mean over routed tokens; reap: "
    "mean over routed tokens of weight·‖o‖; max_activation: max |o|. rank 1 = most important in the "
    "layer, equals by lower id. pruned (PESF): count < (T·k/E)·α",
    source="PESF, arXiv 2508.01625; EAN and REAP: arXiv 2510.13999; max activation: arXiv 2507.23279",
    options=(
        Option("criterion", str, ("frequency",), "how importance is measured", tuple(NEEDS), repeatable=True),
        Option("keep", float, None, "mark what each criterion keeps: the first ⌈keep·E⌉ of a layer", low=0, high=1),
        Option("alpha", float, None, "mark what PESF prunes: count below α times a fair share", low=0, high=1e6),
    ),
    needs=needs,
    columns=(
        Column("layer", "index", "the model's own layer index", 0),
        Column("expert", "index", "expert", 0),
        Column("criterion", "name", "how importance is measured"),
        Column("importance", "by criterion", "larger = more important; null if it says nothing of the expert", 0),
        Column("rank", "rank", "1 = most important in its layer", 1),
        Column("keep", "yes/no", "among the share that is kept"),
        Column("pruned", "yes/no", "chosen less than α times a fair share"),
        Column("n_tokens", "tokens", "tokens with routing", 0),
        Column("missing_share", "share", "positions without routing", 0, 1),
    ),
    count=count,
    table=table,
    estimate=estimate,
    value="importance",
    laws=("expert_permutation", "token_order", "sequence_order", "range", "additivity", "missing"),
)
