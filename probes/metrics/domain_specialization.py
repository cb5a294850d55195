"""How much of a domain's tokens an expert takes.

Label "a" sends both its tokens to expert 0, label "b" one to each of two:

>>> from probes import metrics
>>> t = metrics.domain_specialization([[0], [0], [0], [1]], [0, 0, 1, 1], 2, label=["a", "b"])
>>> t[["expert", "label", "share", "uniform"]].values.tolist()
[[0, 'a', 1.0, 0.5], [1, 'a', 0.0, 0.5], [0, 'b', 0.5, 0.5], [1, 'b', 0.5, 0.5]]

Ratios of expert 0 over the labels: 1 and 1/2, std (ddof 1) √(1/8), mean 3/4. Expert 1 has one label above 1e−5 only:
no spread can be told.

>>> s = metrics.domain_specialization([[0], [0], [0], [1]], [0, 0, 1, 1], 2, label=["a", "b"], summary=True)
>>> s.cv.round(6).tolist()
[0.471405, nan]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from probes.metrics.activations import count_experts, stored_counts
from probes.metrics.chunk import About, Chunk
from probes.metrics.registry import Column, Counts, Metric, Option, Options
from probes.metrics.tables import coverage, grid, ratio

if TYPE_CHECKING:
    import pandas as pd

LEAST_RATIO = 1e-5


def count(chunk: Chunk, options: Options) -> Counts:
    """chosen [G, L, E]."""
    return {"chosen": count_experts(chunk)}


def aggregates(stored: Any, options: Options, about: About) -> Counts | None:
    """The stored counts by label are all it needs."""
    return stored_counts(stored, about)


def _named(values: np.ndarray, about: About, axis: int) -> np.ndarray:
    """Without the group of sequences that have no label."""
    return values.take(range(len(about.groups) - (about.groups[-1] is None)), axis=axis)


def estimate(counts: Counts, options: Options, about: About) -> np.ndarray:
    """share [..., label, L, E], or cv over labels [..., L, E] of a summary."""
    chosen = _named(counts["chosen"], about, -3)
    share = ratio(chosen, _named(counts["n_tokens"], about, -2)[..., None])
    return variation(share) if options["summary"] else share


def variation(share: np.ndarray) -> np.ndarray:
    """std (ddof 1) over mean along the labels [..., label, L, E]; labels at or below 1e−5 are left out."""
    kept = share > LEAST_RATIO
    n, values = kept.sum(axis=-3), np.where(kept, share, 0)
    mean = ratio(values.sum(axis=-3), n)
    squares = np.where(kept, (share - mean[..., None, :, :]) ** 2, 0).sum(axis=-3)
    return ratio(np.sqrt(ratio(squares, np.where(n > 1, n - 1, 0))), mean)


def table(counts: Counts, options: Options, about: About) -> pd.DataFrame:
    """One row per (label, layer, expert), or with `summary` per (layer, expert)."""
    value = estimate(counts, options, about)
    experts = np.arange(about.num_experts)
    if options["summary"]:
        pooled = {"n_tokens": counts["n_tokens"].sum(0, keepdims=True), "seen": counts["seen"].sum(keepdims=True)}
        cover = {name: v[0] for name, v in coverage(pooled).items()}
        return grid({"layer": about.layers, "expert": experts}, {"cv": value, **cover})
    names = [name for name in about.groups if name is not None]
    cover = {name: _named(v, about, 0) for name, v in coverage(counts).items()}
    columns = {"share": value, "uniform": np.full(value.shape, about.top_k / about.num_experts), **cover}
    frame = grid({"label": names, "layer": about.layers, "expert": experts}, columns)
    return frame[["layer", "expert", "label", *columns]]


METRIC = Metric(
    name="domain_specialization",
    title="Domain specialization",
    question="Which experts take more of one label's tokens than chance would give them?",
    formula="share = count(l,e,label) / tokens(l,label): the fraction of the label's tokens that use e. With k experts "
    "for every token that is count / Σ_e count · k. uniform = k/E. Summary: cv = std (ddof 1) / mean of the share over "
    "labels, labels with share ≤ 1e−5 left out",
    source="OLMoE, arXiv 2409.02060; cv: moe-lrc, arXiv 2505.16056",
    options=(Option("summary", bool, False, "the variation over labels, one row per expert"),),
    groups=lambda options: "label",
    columns=(
        Column("layer", "index", "the model's own layer index", 0),
        Column("expert", "index", "expert", 0),
        Column("label", "name", "label of the sequences"),
        Column("share", "share", "tokens of the label that use the expert", 0, 1),
        Column("uniform", "share", "k/E, what chance would give", 0, 1),
        Column("cv", "ratio", "coefficient of variation of the share over labels; null under two labels (summary)", 0),
        Column("n_tokens", "tokens", "tokens of the label with routing", 0),
        Column("missing_share", "share", "positions without routing", 0, 1),
    ),
    count=count,
    table=table,
    estimate=estimate,
    aggregates=aggregates,
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
    ends={"uniform": {"share": lambda k, e: k / e}, "one_hot": {"share": lambda k, e: 1.0}},
)
