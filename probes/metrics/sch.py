"""Segment cache best hit rate: what a cache of C experts could do that knows the next m tokens.

One expert per token, 0 1 0 1, a cache of one: 0 is new in an empty cache (a hit by definition), every other token
misses. With two, all hit.

>>> from probes import metrics
>>> t = metrics.sch([[0], [1], [0], [1]], num_experts=2, segment_length=4, level="layer")
>>> t[["cache_size", "cache_ratio", "sch", "n_sequences"]].values.tolist()
[[1.0, 1.0, 0.25, 1.0], [2.0, 2.0, 1.0, 1.0]]

The first published form: of the windows of two tokens each holds both experts once, so the larger count is half of it.

>>> t = metrics.sch([[0], [1], [0], [1]], num_experts=2, segment_length=2, level="layer", definition="window")
>>> t.sch.tolist()
[0.5, 1.0]
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from probes.errors import UsageError
from probes.metrics.chunk import About, Chunk
from probes.metrics.registry import Column, Counts, Metric, Option, Options
from probes.metrics.srp import SEGMENT_LENGTH
from probes.metrics.tables import axes, grid, ratio

if TYPE_CHECKING:
    import pandas as pd

LEVELS = ("layer", "model")


def sizes(level: str, options: Options, about: About) -> np.ndarray:
    """Cache sizes of a level: 1..E for a layer, multiples of k up to L·E for the model, or the chosen ones that fit."""
    most = about.num_experts * (about.num_layers if level == "model" else 1)
    if options["cache_size"]:
        return np.array(sorted(c for c in options["cache_size"] if c <= most), np.int64)
    step = about.top_k if level == "model" else 1
    return np.arange(step, most + 1, step)


def check(options: Options, about: About) -> None:
    """Some chosen cache size must fit some level."""
    if not any(len(sizes(level, options, about)) for level in options["level"]):
        most = max(about.num_experts * (about.num_layers if level == "model" else 1) for level in options["level"])
        raise UsageError(f"--cache-size must be at most {most}, the number of experts")


def count(chunk: Chunk, options: Options) -> Counts:
    """Per level and m [G, rows, sizes + 1]: online, the sum over sequences of hits/(T·k); last, how many sequences."""
    counts: Counts = {}
    for level in options["level"]:
        for m in options["segment_length"]:
            if options["definition"] == "online":
                counts[f"{level}_{m}"] = hit_rates(chunk, level, m, sizes(level, options, chunk.about))
            else:
                counts |= _window_counts(chunk, level, m)
    counts["tokens_any"] = np.bincount(chunk.group[chunk.routed.any(axis=1)], minlength=chunk.n_groups)
    return counts


def hit_rates(chunk: Chunk, level: str, m: int, cache_sizes: np.ndarray, policy: int = 0) -> np.ndarray:
    """[G, L (1 for the model), sizes + 1] sums of per-sequence hit rates; the last column counts the sequences."""
    from probes.metrics.kernels.caches import cache_hits

    rows = chunk.about.num_layers if level == "layer" else 1
    out = np.zeros((chunk.n_groups, rows, len(cache_sizes) + 1))
    where = (chunk.experts, chunk.starts, chunk.sequence_group)
    cache_hits(*where, policy, m, chunk.arrays.num_experts, level == "layer", cache_sizes, out)
    return out


def _window_counts(chunk: Chunk, level: str, m: int) -> Counts:
    """Sums of sorted counts [G, rows, experts + 1] (last, windows), and how many sequences have a window [G, rows]."""
    from probes.metrics.kernels.segments import window_ranks

    layers, experts = chunk.about.num_layers, chunk.arrays.num_experts
    rows, width = (layers, experts) if level == "layer" else (1, layers * experts)
    out = np.zeros((chunk.n_groups, rows, width + 1), np.int64)
    window_ranks(chunk.experts, chunk.starts, chunk.sequence_group, m, experts, level == "layer", out)
    routed = chunk.routed if level == "layer" else chunk.routed.any(axis=1, keepdims=True)
    lengths = np.add.reduceat(routed.astype(np.int64), chunk.starts[:-1], axis=0)
    long_enough = np.zeros((chunk.n_groups, rows), np.int64)
    np.add.at(long_enough, chunk.sequence_group, lengths >= m)
    unrouted = np.zeros((chunk.n_groups, rows), np.int64)
    if level == "model" and not np.array_equal(chunk.routed.any(axis=1), chunk.routed.all(axis=1)):
        np.add.at(unrouted[:, 0], chunk.sequence_group, _unrouted_in_windows(chunk, m))
    return {f"{level}_{m}": out, f"{level}_{m}_sequences": long_enough, f"{level}_{m}_unrouted": unrouted}


def _unrouted_in_windows(chunk: Chunk, m: int) -> np.ndarray:
    """[S] over all windows of m tokens that have routing somewhere: (token, layer) pairs without any."""
    missing, out = (~chunk.routed).sum(axis=1), np.zeros(len(chunk.starts) - 1, np.int64)
    for s, (a, b) in enumerate(itertools.pairwise(chunk.starts)):
        kept = missing[a:b][chunk.routed[a:b].any(axis=1)]
        if len(kept) >= m:
            out[s] = np.convolve(kept, np.ones(m, np.int64), "valid").sum()
    return out


def rates(counts: Counts, level: str, m: int, options: Options, about: About) -> np.ndarray:
    """sch [..., rows, sizes] of one level and segment length."""
    sums = counts[f"{level}_{m}"]
    if options["definition"] == "online":
        return ratio(sums[..., :-1], sums[..., -1:])
    covered = np.cumsum(sums[..., :-1], axis=-1)
    # What a token has of experts counts as it is, and k where a layer has no routing for it.
    activations = covered[..., -1:] + about.top_k * counts[f"{level}_{m}_unrouted"][..., None]
    return ratio(covered[..., sizes(level, options, about) - 1], activations)


def estimate(counts: Counts, options: Options, about: About) -> np.ndarray:
    """sch [..., G, rows]: levels, segment lengths, then layers and cache sizes."""
    parts = [rates(counts, level, m, options, about) for level in options["level"] for m in options["segment_length"]]
    return np.concatenate([part.reshape(*part.shape[:-2], -1) for part in parts], axis=-1)


def table(counts: Counts, options: Options, about: About) -> pd.DataFrame:
    """One row per (level, segment length, layer, cache size)."""
    return cache_table(
        about,
        "sch",
        [
            (
                level,
                _sequences(counts, level, m, options),
                rates(counts, level, m, options, about),
                {"segment_length": m},
            )
            for level in options["level"]
            for m in options["segment_length"]
        ],
        options,
        counts,
        first={"definition": options["definition"]},
    )


def _sequences(counts: Counts, level: str, m: int, options: Options) -> np.ndarray:
    online = options["definition"] == "online"
    return counts[f"{level}_{m}"][..., -1].astype(np.int64) if online else counts[f"{level}_{m}_sequences"]


def cache_table(
    about: About,
    name: str,
    parts: list[tuple[str, np.ndarray, np.ndarray, dict[str, Any]]],
    options: Options,
    counts: Counts,
    first: dict[str, Any],
) -> pd.DataFrame:
    """Rows of (level, sequences [G, rows], value [G, rows, sizes], more columns), indexed as `estimate` has them."""
    import pandas as pd

    frames, row = [], 0
    width = sum(value[0].size for _, _, value, _ in parts)
    for level, sequences, value, more in parts:
        at = axes(about, "layer") if level == "layer" else {**axes(about), "_model": (None,)}
        cache_sizes = sizes(level, options, about)
        active = about.top_k * (1 if level == "layer" else about.num_layers)
        tokens = counts["n_tokens"] if level == "layer" else counts["tokens_any"][:, None]
        columns = {"cache_ratio": np.broadcast_to(cache_sizes / active, value.shape), name: value}
        columns |= {"n_sequences": sequences, "n_tokens": tokens}
        columns["missing_share"] = 1 - ratio(tokens, counts["seen"][:, None])
        frame = grid({**at, "cache_size": cache_sizes}, columns).assign(**first, level=level, **more)
        frame.index = pd.Index((np.arange(len(about.groups))[:, None] * width + row + np.arange(value[0].size)).ravel())
        frames.append(frame)
        row += value[0].size
    by = [about.by] if about.by else []
    order = [*by, *first, "level", "layer", *parts[0][3], "cache_size", *columns]
    joined = pd.concat([f.reindex(columns=order) for f in frames])
    joined["layer"] = joined["layer"].astype("Int64")
    return joined


_SIZES_TEXT = "experts in the cache (default: 1..E per layer, multiples of k for the model)"
CACHE_SIZE = Option("cache_size", int, (), _SIZES_TEXT, low=1, repeatable=True)

METRIC = Metric(
    name="sch",
    title="Segment cache best hit rate (SCH)",
    question="How often would a cache of C experts hit that knows the next m tokens?",
    formula="online: per sequence, count the hits of a token's k experts against the cache as it was before the "
    "token (an expert new to the sequence hits iff fewer than C distinct ones were seen), then insert "
    "them in listed order; when full, evict the member with the fewest activations left in the m tokens "
    "that start here, ties to the least recently used; sch = mean over sequences of hits/(T·k). window: Σ "
    "of the C largest expert counts over all windows of m tokens / (windows·m·k)",
    source="moe-lrc, arXiv 2505.16056 (online: the revised paper and its code; window: the first version)",
    options=(
        SEGMENT_LENGTH,
        Option("definition", str, "online", "the revised or the first published form", ("online", "window")),
        Option("level", str, LEVELS, "a cache per layer, or one for the model", LEVELS, repeatable=True),
        CACHE_SIZE,
    ),
    check=check,
    columns=(
        Column("definition", "name", "online or window"),
        Column("level", "name", "layer: a cache per layer; model: one for all layers"),
        Column("layer", "index", "the model's own layer index; null for the model", 0),
        Column("segment_length", "tokens", "m", 1),
        Column("cache_size", "experts", "C", 1),
        Column("cache_ratio", "ratio", "C/k, for the model C/(L·k)", 0),
        Column("sch", "ratio", "hit rate", 0, 1),
        Column("n_sequences", "sequences", "sequences with routing (online) or with a window", 0),
        Column("n_tokens", "tokens", "tokens with routing (in any layer, for the model)", 0),
        Column("missing_share", "share", "positions without routing", 0, 1),
    ),
    count=count,
    table=table,
    estimate=estimate,
    value="sch",
    laws=("expert_permutation", "empty_slots", "sequence_order", "range", "additivity", "missing", "duplication"),
)
