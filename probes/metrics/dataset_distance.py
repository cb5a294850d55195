"""How differently two labels load the experts.

Label "a" uses expert 0 only, "b" expert 1 only: nothing in common.

>>> from probes import metrics
>>> t = metrics.dataset_distance([[0], [1]], [0, 1], 2, label=["a", "b"])
>>> t[["a", "b", "l2", "cosine_distance", "js_bits"]].round(6).values.tolist()
[['a', 'b', 1.414214, 1.0, 1.0]]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from probes.errors import UsageError
from probes.metrics.activations import count_experts, stored_counts
from probes.metrics.chunk import About, Chunk
from probes.metrics.registry import Column, Counts, Metric, Options
from probes.metrics.tables import grid, ratio

if TYPE_CHECKING:
    import pandas as pd


def check(options: Options, about: About) -> None:
    """Two labels at least."""
    if len([name for name in about.groups if name is not None]) < 2:
        raise UsageError("dataset_distance compares labels, and the run has fewer than two; or give --against RUN")


def count(chunk: Chunk, options: Options) -> Counts:
    """chosen [G, L, E]."""
    return {"chosen": count_experts(chunk)}


def aggregates(stored: Any, options: Options, about: About) -> Counts | None:
    """The stored counts by label are all it needs."""
    return stored_counts(stored, about)


def _pairs(about: About) -> tuple[np.ndarray, np.ndarray]:
    named = len(about.groups) - (about.groups[-1] is None)
    return np.triu_indices(named, k=1)


def _loads(counts: Counts) -> np.ndarray:
    return ratio(counts["chosen"], counts["chosen"].sum(axis=-1, keepdims=True))


def estimate(counts: Counts, options: Options, about: About) -> np.ndarray:
    """l2 [..., pairs, L]."""
    load = _loads(counts)
    # One pair at a time: all pairs of a dozen labels in hundreds of resamples would be most of a gigabyte.
    apart = [
        np.linalg.norm(load[..., a, :, :] - load[..., b, :, :], axis=-1) for a, b in zip(*_pairs(about), strict=True)
    ]
    return np.stack(apart, axis=-2)


def js_bits(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Jensen–Shannon divergence over the last axis in bits: 0 same, 1 nothing in common."""
    middle = (a + b) / 2
    return (_relative(a, middle) + _relative(b, middle)) / 2


def _relative(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    logs = np.log2(np.divide(p, q, out=np.ones_like(p), where=p > 0))
    return np.where(np.isnan(p).any(axis=-1), np.nan, (p * logs).sum(axis=-1))


def table(counts: Counts, options: Options, about: About) -> pd.DataFrame:
    """One row per (pair of labels, layer)."""
    load = _loads(counts)
    first, other = _pairs(about)
    a, b = load[first], load[other]
    cosine = ratio((a * b).sum(axis=-1), np.sqrt((a**2).sum(axis=-1) * (b**2).sum(axis=-1)))
    n_tokens = counts["n_tokens"][first] + counts["n_tokens"][other]
    seen = counts["seen"][first] + counts["seen"][other]
    names = np.array([str(name) for name in about.groups], dtype=object)
    columns = {
        "a": names[first],
        "b": names[other],
        "l2": estimate(counts, options, about),
        "cosine_distance": 1 - cosine,
        "js_bits": js_bits(a, b),
        "n_tokens": n_tokens,
        "missing_share": 1 - ratio(n_tokens, seen[:, None]),
    }
    return grid({"_pair": first, "layer": about.layers}, columns).drop(columns="_pair")


METRIC = Metric(
    name="dataset_distance",
    title="Dataset distance",
    question="How differently do two labels, or two runs, load the experts?",
    formula="loads normalised to sum 1: l2 = ‖a − b‖₂; cosine_distance = 1 − cos(a, b); js_bits = Jensen–Shannon "
    "in bits. With --against RUN the two runs stand in place of the labels; their tokens need not be the same",
    source="arXiv 2406.11256 (L2 of the last layer)",
    groups=lambda options: "label",
    by=(),
    across=True,
    check=check,
    columns=(
        Column("layer", "index", "the model's own layer index", 0),
        Column("a", "name", "one label (or run)"),
        Column("b", "name", "the other"),
        Column("l2", "distance", "Euclidean distance of the loads", 0, 2**0.5),
        Column("cosine_distance", "distance", "1 − cosine", 0, 1),
        Column("js_bits", "bits", "Jensen–Shannon divergence; 0 same, 1 nothing in common", 0, 1),
        Column("n_tokens", "tokens", "tokens of both labels with routing", 0),
        Column("missing_share", "share", "positions of both without routing", 0, 1),
    ),
    count=count,
    table=table,
    estimate=estimate,
    aggregates=aggregates,
    value="l2",
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
    ends={"uniform": {"l2": lambda k, e: 0.0}, "one_hot": {"l2": lambda k, e: 0.0}},
)
