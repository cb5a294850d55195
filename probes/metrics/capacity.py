"""What a limit on tokens per expert would cost.

Three tokens, all to expert 0 of two, γ = 1: capacity ⌈1·1·3/2⌉ = 2, so one of three assignments does not fit, and two
of the four places are filled.

>>> from probes import metrics
>>> t = metrics.capacity([[0], [0], [0]], num_experts=2, gamma=1)
>>> t[["capacity", "overflow_share", "experts_over", "utilization_after"]].round(6).values.tolist()
[[2.0, 0.333333, 1.0, 0.5]]

Sent on to the next best expert with room, the third token goes to expert 1:

>>> t = metrics.capacity([[0]] * 3, num_experts=2, gamma=1, mode="reroute", logits=[[1.0, 0.0]] * 3)
>>> t[["utilization_after", "dropped_share"]].values.tolist()
[[0.75, 0.0]]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from probes.errors import UsageError
from probes.metrics.activations import count_experts, stored_counts
from probes.metrics.chunk import About, Chunk
from probes.metrics.registry import Column, Counts, Metric, Option, Options
from probes.metrics.tables import axes, coverage, grid, ratio

if TYPE_CHECKING:
    import pandas as pd


def capacities(counts: Counts, options: Options, about: About) -> np.ndarray:
    """C [..., L, gammas] = ceil(γ·k·T/E), T the tokens with routing in the layer."""
    tokens = np.asarray(counts["n_tokens"], np.float64)[..., None]
    return np.ceil(np.array(options["gamma"]) * about.top_k * tokens / about.num_experts)


def count(chunk: Chunk, options: Options) -> Counts:
    """chosen [G, L, E]; on the second pass of `reroute` also placed [G, L, gammas, E]: what found a place."""
    counts: Counts = {"chosen": count_experts(chunk)}
    if "limit" in options:
        counts["placed"] = _reroute(chunk, options["limit"])
    return counts


def _reroute(chunk: Chunk, limit: np.ndarray) -> np.ndarray:
    from probes.metrics.kernels.capacity import reroute

    _, _, layers, _, experts = chunk.shape
    if chunk.rows is not None:
        raise UsageError("capacity --mode reroute has no --ci: tokens compete for room across sequences")
    total = chunk.state.setdefault("placed", np.zeros((*limit.shape, experts), np.int64))
    before = total.copy()
    logits = np.asarray(chunk.arrays.logits)
    for i in range(layers):
        for j in range(limit.shape[2]):
            reroute(chunk.experts[:, i], logits[:, i], chunk.group, limit[:, i, j], total[:, i, j])
    return total - before


def second(counts: Counts, options: Options, about: About) -> Options | None:
    """Rerouting needs the capacity, and so the number of tokens, before the first token is placed."""
    if options["mode"] == "drop":
        return None
    return {**options, "limit": capacities(counts, options, about).astype(np.int64)}


def check(options: Options, about: About) -> None:
    """A capacity is for all tokens at once: rerouting cannot be resampled or repeated per label cheaply, drop can."""
    if options["mode"] == "reroute" and about.by not in (None, "label"):
        raise UsageError("capacity --mode reroute groups by label only")


def aggregates(stored: Any, options: Options, about: About) -> Counts | None:
    """Dropping needs the counts alone."""
    return stored_counts(stored, about) if options["mode"] == "drop" else None


def estimate(counts: Counts, options: Options, about: About) -> np.ndarray:
    """overflow_share [..., L, gammas]."""
    chosen = np.asarray(counts["chosen"], np.float64)[..., None, :]
    over = np.maximum(chosen - capacities(counts, options, about)[..., None], 0)
    return ratio(over.sum(axis=-1), chosen.sum(axis=-1))


def table(counts: Counts, options: Options, about: About) -> pd.DataFrame:
    """One row per (layer, gamma)."""
    limit = capacities(counts, options, about)
    chosen = counts["chosen"][:, :, None, :]
    placed = counts["placed"] if "placed" in counts else np.minimum(chosen, limit[..., None])
    columns = {
        "capacity": limit.astype(np.int64),
        "overflow_share": estimate(counts, options, about),
        "experts_over": (chosen > limit[..., None]).sum(axis=-1),
        "utilization_after": ratio(placed.sum(axis=-1), limit * about.num_experts),
        "dropped_share": 1 - ratio(placed.sum(axis=-1), chosen.sum(axis=-1)),
        **coverage(counts),
    }
    return grid({**axes(about, "layer"), "gamma": options["gamma"]}, columns)


METRIC = Metric(
    name="capacity",
    title="Expert capacity",
    question="What would a limit on tokens per expert cost?",
    formula="C = ceil(γ·k·T/E); overflow_share = Σ max(count − C, 0) / Σ count; utilization_after = places filled "
    "/ (E·C). Dropping loses the overflow, whichever tokens it picks (by score, first or last); rerouting "
    "sends each token that finds its expert full, in order, to its best other expert with room",
    source="arXiv 2503.05066; capacity: Switch Transformers, arXiv 2101.03961",
    options=(
        Option("gamma", float, (1.0, 1.25, 1.5, 2.0), "capacity factor γ", low=1e-6, high=1e6, repeatable=True),
        Option("mode", str, "drop", "what happens to the overflow", ("drop", "reroute")),
    ),
    needs=lambda options: ("logits",) if options["mode"] == "reroute" else (),
    check=check,
    columns=(
        Column("layer", "index", "the model's own layer index", 0),
        Column("gamma", "ratio", "capacity factor", 0),
        Column("capacity", "tokens", "C, tokens an expert takes at most", 0),
        Column("overflow_share", "share", "assignments beyond the capacity", 0, 1),
        Column("experts_over", "experts", "experts chosen more often than C", 0),
        Column("utilization_after", "share", "places filled after dropping or rerouting", 0, 1),
        Column("dropped_share", "share", "assignments that found no place", 0, 1),
        Column("n_tokens", "tokens", "tokens with routing", 0),
        Column("missing_share", "share", "positions without routing", 0, 1),
    ),
    count=count,
    table=table,
    estimate=estimate,
    aggregates=aggregates,
    second=second,
    value="overflow_share",
    laws=("expert_permutation", "rank_order", "token_order", "sequence_order", "range", "additivity", "missing"),
    ends={"uniform": {"overflow_share": lambda k, e: 0.0}},
)
