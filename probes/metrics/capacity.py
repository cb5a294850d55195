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

Dropping one of three with weights 0.9, 0.5, 0.6 loses least of the routing weight where the smallest goes:

>>> weights = [[0.9], [0.5], [0.6]]
>>> for keep in ("score", "first", "last"):
...     t = metrics.capacity([[0]] * 3, num_experts=2, gamma=1, keep=keep, weights=weights)
...     print(keep, float(t.dropped_weight_share.round(3)[0]))
score 0.25
first 0.3
last 0.45
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


MOST_BYTES = 1 << 30


KEPT = {"score": "score", "first": "last", "last": "first"}  # which are kept, from which are dropped, and back


def dropped(options: Options) -> str | None:
    """Which of an expert's assignments do not fit: its smallest weights (score), the first or the last; None: any."""
    return KEPT[options["keep"]] if options["keep"] else options["drop"]


def needs(options: Options) -> tuple[str, ...]:
    """Scores to reroute by; weights to say what is lost."""
    return (*(("logits",) if options["mode"] == "reroute" else ()), *(("weights",) if dropped(options) else ()))


def capacities(counts: Counts, options: Options, about: About) -> np.ndarray:
    """C [..., L, gammas] = ceil(γ·k·T/E), T the tokens with routing in the layer."""
    tokens = np.asarray(counts["n_tokens"], np.float64)[..., None]
    return np.ceil(np.array(options["gamma"]) * about.top_k * tokens / about.num_experts)


def count(chunk: Chunk, options: Options) -> Counts:
    """chosen [G, L, E]; on the second pass of `reroute` also placed [G, L, gammas, E]: what found a place."""
    counts: Counts = {"chosen": count_experts(chunk)}
    if dropped(options):
        counts |= _assignments(chunk)
    if "limit" in options:
        counts["placed"] = _reroute(chunk, options["limit"])
    return counts


def _assignments(chunk: Chunk) -> Counts:
    """The flat index of (group, layer, expert) and the weight of every assignment, token by token."""
    _, _, layers, _, experts = chunk.shape
    total = chunk.state["assignments"] = chunk.state.get("assignments", 0) + chunk.experts.size
    if 8 * total > MOST_BYTES:
        raise UsageError("capacity --keep holds every weight in memory, and these are too many: choose --layers")
    cell = (chunk.row[:, None, None] * layers + np.arange(layers)[None, :, None]) * experts + chunk.experts
    known = chunk.experts >= 0
    weights = np.asarray(chunk.arrays.weights, np.float32)[known]
    return {"_cell": [cell[known].astype(np.int32)], "_weight": [weights]}


def lost_weight(counts: Counts, limit: np.ndarray, drop: str) -> np.ndarray:
    """Share of the routing weight [G, L, gammas] of the assignments dropped beyond `limit` [G, L, gammas]."""
    cell, weight = (np.concatenate(counts[name]) for name in ("_cell", "_weight"))
    weight = np.nan_to_num(weight.astype(np.float64))
    order = np.lexsort((-weight, cell)) if drop == "score" else np.argsort(cell, kind="stable")
    cell, weight = cell[order], weight[order]
    size = np.bincount(cell, minlength=counts["chosen"].size)
    place = np.arange(len(cell)) - np.repeat(np.cumsum(size) - size, size)  # of its expert's assignments, in order
    place = size[cell] - 1 - place if drop == "first" else place
    layer = cell // counts["chosen"].shape[-1]
    lost = [np.bincount(layer, weight * (place >= limit.reshape(-1, limit.shape[-1])[layer, j]), limit[..., 0].size)
            for j in range(limit.shape[-1])]  # fmt: skip
    whole = np.bincount(layer, weight, limit[..., 0].size)
    return ratio(np.stack(lost, axis=-1), whole[:, None]).reshape(limit.shape)


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
    if options["keep"] and options["drop"]:
        raise UsageError("capacity: give --keep or its old form --drop, not both")
    if options["mode"] == "reroute" and dropped(options):
        raise UsageError("capacity: --keep and --drop say which tokens --mode drop drops; --mode reroute drops by turn")
    if options["mode"] == "reroute" and about.by not in (None, "label"):
        raise UsageError("capacity --mode reroute groups by label only")


def aggregates(stored: Any, options: Options, about: About) -> Counts | None:
    """Dropping needs the counts alone, unless it matters whom it meets."""
    return stored_counts(stored, about) if options["mode"] == "drop" and not dropped(options) else None


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
        **({"dropped_weight_share": lost_weight(counts, limit, which)} if (which := dropped(options)) else {}),
        **coverage(counts),
    }
    return grid({**axes(about, "layer"), "gamma": options["gamma"]}, columns)


METRIC = Metric(
    name="capacity",
    title="Expert capacity",
    question="What would a limit on tokens per expert cost?",
    formula="C = ceil(γ·k·T/E), T all tokens of the trace: they count as one batch (`batch_load` looks at batches of a "
    "size); overflow_share = Σ max(count − C, 0) / Σ count; utilization_after = places filled / (E·C). Dropping loses "
    "the overflow, whichever tokens it picks (--keep says which stay, and how much of the routing weight is lost); "
    "rerouting sends each token that finds its expert full, in order, to its best other expert with room",
    source="arXiv 2503.05066; capacity: Switch Transformers, arXiv 2101.03961",
    options=(
        Option("gamma", float, (1.0, 1.25, 1.5, 2.0), "capacity factor γ", low=1e-6, high=1e6, repeatable=True),
        Option("mode", str, "drop", "what happens to the overflow", ("drop", "reroute")),
        Option(
            *(
                "keep",
                str,
                None,
                "which of an expert's tokens keep their place: its largest weights, the first or last",
            ),
            ("score", "first", "last"),
        ),
        Option(
            *("drop", str, None, "the old form of --keep: which of an expert's tokens go"),
            ("score", "first", "last"),
            note="says which tokens go; --keep, as the intervention capacity has it, says which stay",
        ),
    ),
    needs=needs,
    check=check,
    columns=(
        Column("layer", "index", "the model's own layer index", 0),
        Column("gamma", "ratio", "capacity factor", 0),
        Column("capacity", "tokens", "C, tokens an expert takes at most", 0),
        Column("overflow_share", "share", "assignments beyond the capacity", 0, 1),
        Column("experts_over", "experts", "experts chosen more often than C", 0),
        Column("utilization_after", "share", "places filled after dropping or rerouting", 0, 1),
        Column("dropped_share", "share", "assignments that found no place", 0, 1),
        Column("dropped_weight_share", "share", "of the routing weight that is dropped (drop)", 0, 1),
        Column("n_tokens", "tokens", "tokens with routing", 0),
        Column("missing_share", "share", "positions without routing", 0, 1),
    ),
    count=count,
    table=table,
    estimate=estimate,
    aggregates=aggregates,
    second=second,
    value="overflow_share",
    laws=(
        "expert_permutation",
        "empty_slots",
        "rank_order",
        "token_order",
        "sequence_order",
        "range",
        "additivity",
        "missing",
    ),
    ends={"uniform": {"overflow_share": lambda k, e: 0.0}},
)
