"""Which experts matter, by the criteria that pruning papers use.

Two tokens of two experts: expert 0 twice with weights 0.6 and 0.5 and outputs of norm 1 and 3, expert 1 once.

>>> from probes import metrics
>>> args = dict(experts=[[0, 1], [0, 2]], num_experts=3, weights=[[0.6, 0.4], [0.5, 0.5]])
>>> args["output_norm"] = [[1.0, 2.0], [3.0, 1.0]]
>>> t = metrics.expert_importance(**args, criterion=["frequency", "soft_frequency", "ean", "reap"])
>>> t[t.expert == 0][["criterion", "importance", "rank"]].values.tolist()
[['frequency', 2.0, 1], ['soft_frequency', 1.1, 1], ['ean', 4.0, 1], ['reap', 1.05, 1]]

EASY-EP weighs a token by how far the block turned the residual stream: with cosines 0.5 and 1 only the first token
counts, 0.6·1·0.5 = 0.3. MoNE from the moments of expert 0's two outputs (1, 0) and (3, 0): unbiased variance (2, 0),
times the mean weight 1.1/2 for the fusion: √2·0.55.

>>> moments = dict(output_count=[[2, 1, 1]], output_mean=[[[2, 0], [0, 0], [0, 0]]])
>>> moments["output_m2"] = [[[2, 0], [0, 0], [0, 0]]]
>>> chosen = ["easy_ep", "mone_variance", "mone"]
>>> t = metrics.expert_importance(**args, similarity=[0.5, 1.0], **moments, criterion=chosen)
>>> t[t.expert == 0][["criterion", "importance"]].round(3).values.tolist()
[['easy_ep', 0.3], ['mone_variance', 2.0], ['mone', 0.778]]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from probes.errors import UsageError
from probes.metrics.activations import count_experts, stored_counts
from probes.metrics.chunk import MOMENTS, About, Chunk
from probes.metrics.registry import Column, Counts, Metric, Option, Options
from probes.metrics.tables import axes, coverage, grid, ratio
from probes.routing import RoutingArrays

if TYPE_CHECKING:
    import pandas as pd

NEEDS = {
    "frequency": (),
    "soft_frequency": ("weights",),
    "ean": ("output_norm",),
    "ean_mean": ("output_norm",),
    "reap": ("weights", "output_norm"),
    "easy_ep": ("weights", "output_norm", "similarity"),
    "mone_variance": MOMENTS,
    "mone": ("weights", *MOMENTS),
    "max_activation": ("output_absmax",),
}


def needs(options: Options) -> tuple[str, ...]:
    """The arrays of the criteria asked for."""
    return tuple(dict.fromkeys(name for criterion in options["criterion"] for name in NEEDS[criterion]))


def count(chunk: Chunk, options: Options) -> Counts:
    """chosen [G, L, E]; sums [G, L, E] of weight, norm and weight·norm with the assignments they are over; maxima.

    same_spread, same_deviation [1, L, E]: norm of the outputs' variance, and of its square root, over the whole run.
    """
    counts: Counts = {"chosen": count_experts(chunk)}
    arrays, wanted = chunk.arrays, set(options["criterion"])
    if wanted & {"soft_frequency", "mone"}:
        counts["weight"], _ = _sums(chunk, np.asarray(arrays.weights, np.float64))
    if wanted & {"ean", "ean_mean"}:
        counts["norm"], counts["n_norm"] = _sums(chunk, np.asarray(arrays.output_norm, np.float64))
    if "reap" in wanted:
        product = np.asarray(arrays.weights, np.float64) * np.asarray(arrays.output_norm, np.float64)
        counts["product"], counts["n_product"] = _sums(chunk, product)
    if "easy_ep" in wanted:
        turned = np.maximum(1 - np.asarray(arrays.similarity, np.float64), 0)[:, :, None]
        product = np.asarray(arrays.weights, np.float64) * np.asarray(arrays.output_norm, np.float64)
        counts["turned"], counts["n_turned"] = _sums(chunk, product * turned)
    if wanted & {"mone_variance", "mone"}:
        if "spread" not in chunk.state:  # once per pass: it is of the whole run
            chunk.state["spread"] = spread(arrays)
        counts["same_spread"], counts["same_deviation"] = (x[None] for x in chunk.state["spread"])
    if "max_activation" in wanted:
        counts["max_absmax"] = _maxima(chunk)
    return counts


SUMS = {"weight": "sum_weight", "norm": "sum_norm", "n_norm": "n_norm", "product": "sum_weight_norm"}
STORED = {"soft_frequency": "weight", "ean": "norm", "ean_mean": "norm", "reap": "product"} | {
    "max_activation": "max_absmax"
}


def aggregates(stored: Any, options: Options, about: About) -> Counts | None:
    """The same from the sums kept with the trace; None for what needs single tokens, and where a sum was not kept."""
    counts, wanted = stored_counts(stored, about), set(options["criterion"])
    if counts is None or not wanted <= {"frequency", *STORED}:
        return None
    for name, column in SUMS.items():
        groups = np.moveaxis(np.asarray(stored[column]), 2, 0)
        counts[name] = groups if about.by == "label" else groups.sum(axis=0, keepdims=True)
    counts["n_product"] = counts["n_norm"]
    largest = np.moveaxis(np.asarray(stored["max_abs_output"]), 2, 0)
    counts["max_absmax"] = largest if about.by == "label" else np.fmax.reduce(largest, axis=0, keepdims=True)
    return None if any(not np.nan_to_num(counts[STORED[name]]).any() for name in wanted & set(STORED)) else counts


def spread(arrays: RoutingArrays) -> tuple[np.ndarray, np.ndarray]:
    """‖Var(o)‖₂ and ‖√Var(o)‖₂ [L, E] of the experts' outputs, unbiased; NaN with fewer than two outputs."""
    n = np.asarray(arrays.output_count, np.float64)
    m2 = np.asarray(arrays.output_m2, np.float64)
    variance = ratio(m2, np.broadcast_to(np.where(n > 1, n - 1, 0)[..., None], m2.shape))
    return np.sqrt((variance**2).sum(axis=-1)), np.sqrt(variance.sum(axis=-1))


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
    total = total.astype(np.float64, copy=False)  # of no assignments at all bincount makes whole numbers
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
    if criterion == "easy_ep":
        return counts["turned"]
    if criterion == "mone_variance":
        return np.broadcast_to(counts["same_spread"], counts["chosen"].shape)
    if criterion == "mone":
        return counts["same_deviation"] * ratio(counts["weight"], counts["n_tokens"][..., None])
    return ratio(counts["product"], counts["n_product"]) if criterion == "reap" else counts["max_absmax"]


def check(options: Options, about: About) -> None:
    """The moments are those of the whole run."""
    whole = [c for c in options["criterion"] if c.startswith("mone")]
    if about.by is not None and whole:
        raise UsageError(f"{whole[0]} has no --by {about.by}: the outputs' moments are kept for the whole run only")


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
    "mean over routed tokens of weight·‖o‖; easy_ep: Σ weight·‖o‖·max(1 − cos(h, h + r), 0), h the residual stream "
    "before the experts, r what they returned; mone_variance: ‖Var(o)‖₂, unbiased, per component over the run; mone: "
    "‖√Var(o)‖₂ times the mean weight over all tokens (the value of the published code depends on the order of its "
    "batches, as it merges their variances; here Var is the exact one of the run, and its constant factor is left "
    "out); max_activation: max |o|. rank 1 = most important in the "
    "layer, equals by lower id. pruned (PESF): count < (T·k/E)·α",
    source="PESF, arXiv 2508.01625; EAN and REAP: arXiv 2510.13999; EASY-EP: arXiv 2504.06792; MoNE: arXiv 2507.00390; "
    "max activation: arXiv 2507.23279",
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
    check=check,
    table=table,
    estimate=estimate,
    aggregates=aggregates,
    sums=("sum_weight", "sum_norm", "n_norm", "sum_weight_norm", "max_abs_output"),
    value="importance",
    laws=("expert_permutation", "empty_slots", "token_order", "sequence_order", "range", "additivity", "missing"),
)
