"""How evenly the experts are used within a batch, and not over a whole trace.

Four tokens of one sequence, one expert each: 0, 0, 1, 1. Over all of them the load is even. In batches of 2 consecutive
tokens one expert of two gets all: 2 times the mean, and with γ = 1 (1 token per expert) half of them do not fit.

>>> from probes import metrics
>>> t = metrics.batch_load([[0], [0], [1], [1]], num_experts=2, batch="consecutive", size=2)
>>> t[["batch", "n_batches", "max_over_mean", "overflow_share"]].values.tolist()
[['2 consecutive tokens of a sequence', 2, 2.0, 0.5]]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from probes.errors import UsageError
from probes.metrics.chunk import About, Chunk
from probes.metrics.registry import Column, Counts, Metric, Option, Options
from probes.metrics.tables import coverage, ratio

if TYPE_CHECKING:
    import pandas as pd

MAKE_UP = {
    "consecutive": "{size} consecutive tokens of a sequence",
    "packed": "{size} consecutive tokens, sequences one after the other",
    "sequence": "one sequence's prefill",
    "mixed": "{size} tokens drawn from all sequences",
    "decode": "one token each of {size} sequences, at the same position",
}
DRAWN = 256  # batches of `mixed`, and steps of `decode` at most
GROUPS = 8  # groups of sequences that are decoded together
SPREAD = ("mean", "p5", "p95")


def names(options: Options) -> dict[str, str]:
    """make-up -> what a batch is, in words."""
    return {kind: MAKE_UP[kind].format(size=options["size"]) for kind in options["batch"]}


def check(options: Options, about: About) -> None:
    """Devices hold whole experts."""
    if options["devices"] > about.num_experts:
        raise UsageError(f"--devices must be at most {about.num_experts}, the number of experts")


def count(chunk: Chunk, options: Options) -> Counts:
    """Lists: the figures of every batch that ends in this chunk, and the tokens drawn for those that mix sequences."""
    kept = np.flatnonzero(chunk.routed.any(axis=1))
    counts: Counts = {"n_tokens": np.stack([np.bincount(chunk.group[chunk.routed[:, i]], minlength=chunk.n_groups)
                                            for i in range(chunk.about.num_layers)], axis=1)}  # fmt: skip
    sequence = np.repeat(np.arange(len(chunk.starts) - 1), np.diff(chunk.starts))[kept]
    ids = chunk.experts[kept]
    begun = chunk.state.get("begun", (0, 0))
    chunk.state["begun"] = (begun[0] + len(kept), begun[1] + len(chunk.starts) - 1)
    for kind in options["batch"]:
        if kind in ("mixed", "decode"):
            counts[f"_{kind}"] = [_drawn(kind, chunk.state, ids, sequence, begun, options)]
        elif kind == "packed":
            joined = _joined(chunk.state, ids, options["size"])
            counts["_packed"] = [_figures(joined, _windows(joined, options["size"]), options, chunk.about)]
        else:
            counts[f"_{kind}"] = [_figures(ids, _batches(kind, sequence, options["size"]), options, chunk.about)]
    return counts


def _batches(kind: str, sequence: np.ndarray, size: int) -> np.ndarray:
    """[T] the batch of each token, from 0; -1 for the rest of a sequence that fills none."""
    if kind == "sequence" or not len(sequence):
        return sequence
    starts = np.flatnonzero(np.r_[True, sequence[1:] != sequence[:-1]])
    lengths = np.diff(np.r_[starts, len(sequence)])
    within = np.arange(len(sequence)) - np.repeat(starts, lengths)
    full = lengths // size
    first = np.cumsum(full) - full
    return np.where(within // size < np.repeat(full, lengths), np.repeat(first, lengths) + within // size, -1)


def _windows(ids: np.ndarray, size: int) -> np.ndarray:
    """[T] the batch of each token where sequences do not matter: every `size` tokens make one."""
    return np.arange(len(ids)) // size


def _joined(state: dict[str, Any], ids: np.ndarray, size: int) -> np.ndarray:
    """The tokens left over so far and these, as many as fill batches; the rest is left for the next chunk."""
    ids = np.concatenate([state["left"], ids]) if "left" in state else ids
    full = len(ids) // size * size
    state["left"] = ids[full:].copy()
    return ids[:full]


def _drawn(
    kind: str, state: dict[str, Any], ids: np.ndarray, sequence: np.ndarray, begun: Any, options: Options
) -> Any:
    """(keys, ids, places) of the tokens of the smallest keys so far: a sample without regard to how chunks were cut."""
    size = options["size"]
    if kind == "mixed":
        keys = _keys(begun[0] + np.arange(len(ids)), options["draw"])
        places, most = np.zeros(len(ids), np.int64), DRAWN * size
        seen = keys
    else:
        starts = np.searchsorted(sequence, np.arange(sequence.max(initial=-1) + 1))
        places = np.arange(len(ids)) - starts[sequence]
        keys = _keys(begun[1] + sequence, options["draw"])
        most = GROUPS * size
        seen = keys[places == 0]
    limit = state.setdefault(f"limit_{kind}", np.zeros(0, np.uint64))
    limit = state[f"limit_{kind}"] = np.sort(np.concatenate([limit, seen]))[:most]
    keep = (keys <= limit[-1] if len(limit) else np.zeros(len(ids), bool)) & (places < DRAWN)
    return keys[keep], ids[keep], places[keep]


def _keys(index: np.ndarray, seed: int) -> np.ndarray:
    """A random 64-bit number of each index (splitmix64; Steele et al. 2014)."""
    z = index.astype(np.uint64) + np.uint64((seed * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) % 2**64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _of_drawn(kind: str, parts: list[Any], options: Options, about: About) -> np.ndarray:
    """Figures of the batches made of what was drawn."""
    keys, ids, places = (np.concatenate(values) for values in zip(*parts, strict=True))
    size = options["size"]
    if kind == "mixed":
        order = np.argsort(keys, kind="stable")[: DRAWN * size]
        order = order[: len(order) // size * size]
        return _figures(ids[order], _windows(order, size), options, about)
    drawn, sequence = np.unique(keys, return_inverse=True)
    group = sequence // size  # the sequences of the smallest keys are decoded together, `size` at a time
    steps = np.bincount(sequence, minlength=len(drawn))
    shortest = [steps[g * size : (g + 1) * size].min() for g in range(min(len(drawn) // size, GROUPS))]
    first = np.cumsum([0, *shortest])
    inside = (group < len(shortest)) & (places < np.array([*shortest, 0])[np.minimum(group, len(shortest))])
    batch = np.where(inside, first[np.minimum(group, len(shortest))] + places, -1)
    return _figures(ids, batch, options, about)


def _figures(ids: np.ndarray, batch: np.ndarray, options: Options, about: About) -> np.ndarray:
    """[batches, L, 1 + γ + 1]: max ÷ mean over experts, overflow share per γ, max ÷ mean over devices; NaN if empty."""
    batches, gammas = int(batch.max(initial=-1)) + 1, np.array(options["gamma"])
    out = np.full((batches, about.num_layers, len(gammas) + 2), np.nan)
    for i in range(about.num_layers):
        slots = (ids[:, i] >= 0) & (batch >= 0)[:, None]
        cell = (batch[:, None] * about.num_experts + ids[:, i])[slots]
        load = np.bincount(cell, minlength=batches * about.num_experts).reshape(batches, about.num_experts)
        tokens = np.bincount(batch[slots.any(axis=1)], minlength=batches)
        limit = np.ceil(gammas * about.top_k * tokens[:, None] / about.num_experts)
        over = np.maximum(load[:, None, :] - limit[..., None], 0).sum(axis=-1)
        out[:, i, 0] = ratio(load.max(axis=-1), load.mean(axis=-1))
        out[:, i, 1:-1] = ratio(over, load.sum(axis=-1)[:, None])
        if options["devices"]:
            device = np.arange(about.num_experts) * options["devices"] // about.num_experts
            there = np.stack([load[:, device == d].sum(axis=-1) for d in range(options["devices"])], axis=-1)
            out[:, i, -1] = ratio(there.max(axis=-1), there.mean(axis=-1))
    return out


def table(counts: Counts, options: Options, about: About) -> pd.DataFrame:
    """One row per (make-up, layer, gamma)."""
    import pandas as pd

    frames = []
    for kind, words in names(options).items():
        parts = counts[f"_{kind}"]
        drawn = kind in ("mixed", "decode")
        figures = _of_drawn(kind, parts, options, about) if drawn else np.concatenate(parts)
        for j, gamma in enumerate(options["gamma"]):
            columns: dict[str, Any] = {"batch": words, "layer": about.layers, "gamma": gamma}
            columns |= _spread("overflow_share", figures[:, :, 1 + j]) | _spread("max_over_mean", figures[:, :, 0])
            columns |= _spread("device_max_over_mean", figures[:, :, -1])
            columns["n_batches"] = (~np.isnan(figures[:, :, 0])).sum(axis=0)
            columns |= {name: values[0] for name, values in coverage(counts).items()}
            frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)


def _spread(name: str, values: np.ndarray) -> dict[str, np.ndarray]:
    """Mean over batches [n, L] and the ends between which 90 % of the batches lie; NaN without batches."""
    layers = values.shape[1]
    low, mean, high = (np.full(layers, np.nan) for _ in range(3))
    for i in range(layers):
        known = values[~np.isnan(values[:, i]), i].astype(np.float64)
        if len(known):
            mean[i], (low[i], high[i]) = known.mean(), np.quantile(known, [0.05, 0.95])
    return {name: mean, f"{name}_p5": low, f"{name}_p95": high}


def _columns(name: str, unit: str, what: str, low: float, high: float | None = None) -> tuple[Column, ...]:
    return (
        Column(name, unit, f"{what}, mean over the batches", low, high),
        Column(f"{name}_p5", unit, "5 % of the batches lie below", low, high),
        Column(f"{name}_p95", unit, "5 % of the batches lie above", low, high),
    )


METRIC = Metric(
    name="batch_load",
    title="Load within a batch",
    question="How uneven is the load that experts and devices see in one batch?",
    formula="for each batch: C = ceil(γ·k·T/E), T its tokens with an expert; overflow_share = Σ max(count − C, 0) / Σ "
    "count; max_over_mean = busiest expert over the mean expert; device_max_over_mean the same of devices that hold "
    "blocks of consecutive experts, as equal as can be. Mean over batches, and the 5th and 95th percentile. Batches: "
    "consecutive = windows of `size` tokens of a sequence, its rest left out; packed = windows of `size` tokens of all "
    "sequences one after the other, in the order of the trace; sequence = all tokens of a sequence; mixed = up to 256 "
    "batches of `size` tokens drawn from all sequences; decode = sequences drawn in up to 8 groups of `size`, a batch "
    "for each of the first 256 positions that all of a group have",
    source="straggler factor: arXiv 2503.05066; capacity: Switch Transformers, arXiv 2101.03961; which batches: ours",
    options=(
        Option(
            *("batch", str, tuple(MAKE_UP), "what a batch is made of"),
            *(tuple(MAKE_UP),),
            repeatable=True,
        ),
        Option("size", int, 64, "tokens of a batch; sequences for decode", low=1, high=1_000_000),
        Option("gamma", float, (1.0,), "capacity factor γ", low=1e-6, high=1e6, repeatable=True),
        Option("devices", int, 0, "devices that the experts are spread over; 0: not looked at", low=0, high=65_536),
        Option("draw", int, 0, "seed of what is drawn", low=0, high=2**31 - 1),
    ),
    by=(),
    check=check,
    columns=(
        Column("batch", "name", "what a batch is"),
        Column("layer", "index", "the model's own layer index", 0),
        Column("gamma", "ratio", "capacity factor", 0),
        *_columns("overflow_share", "share", "assignments beyond the capacity", 0, 1),
        *_columns("max_over_mean", "ratio", "busiest expert over the mean: the straggler factor", 1),
        *_columns("device_max_over_mean", "ratio", "busiest device over the mean; null without --devices", 1),
        Column("n_batches", "batches", "batches with tokens in the layer", 0),
        Column("n_tokens", "tokens", "tokens with routing in the whole trace", 0),
        Column("missing_share", "share", "positions without routing", 0, 1),
    ),
    count=count,
    table=table,
    value="max_over_mean",
    laws=("expert_permutation", "empty_slots", "rank_order", "range", "additivity", "missing"),
)
