"""Segment routing best performance: how well one set of experts serves a whole segment of tokens.

Six tokens, one of two experts each: 0 0 0 1 1 1. Five windows of two; expert 0 is active 2, 2, 1, 0, 0 times. For
expert 0 (A = 5): keeping it where it is active at least once (3 windows) gives 2·5 / (2·3 + 5) = 10/11.

>>> from probes import metrics
>>> t = metrics.srp([[0], [0], [0], [1], [1], [1]], num_experts=2, segment_length=2)
>>> t.level.tolist()
['expert', 'expert', 'layer', 'model']
>>> t[["srp", "cache_ratio", "activation_ratio", "n_windows"]].round(6).values.tolist()[1:]
[[0.909091, 1.2, 0.5, 5.0], [0.909091, 1.2, 0.5, 5.0], [0.909091, 1.2, 0.5, 5.0]]
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from probes.metrics.chunk import About, Chunk
from probes.metrics.registry import Column, Counts, Metric, Option, Options
from probes.metrics.tables import axes, grid, ratio

if TYPE_CHECKING:
    import pandas as pd

LEVELS = ("expert", "layer", "model")


def count(chunk: Chunk, options: Options) -> Counts:
    """windows_m [G, L, E, m + 1] per segment length m; E = 1, all experts pooled, without the expert level."""
    from probes.metrics.kernels.segments import window_histograms

    experts = chunk.arrays.num_experts if "expert" in options["level"] else 1
    dtype = np.int32 if chunk.n_groups > 64 else np.int64
    counts: Counts = {}
    for m in options["segment_length"]:
        out = np.zeros((chunk.n_groups, chunk.about.num_layers, experts, m + 1), dtype)
        where = (chunk.experts, chunk.starts, chunk.sequence_group)
        window_histograms(*where, m, chunk.arrays.num_experts, experts > 1, out)
        counts[f"windows_{m}"] = out
    counts["tokens_any"] = np.bincount(chunk.group[chunk.routed.any(axis=1)], minlength=chunk.n_groups)
    return counts


def cells(options: Options, about: About) -> int:
    """How many numbers `count` makes per group."""
    experts = about.num_experts if "expert" in options["level"] else 1
    return about.num_layers * experts * sum(m + 1 for m in options["segment_length"])


def levels(counts: Counts, options: Options) -> Iterator[tuple[int, str, np.ndarray]]:
    """(segment length, level, histograms [..., rows, m + 1]) in the order of the table."""
    for m in options["segment_length"]:
        windows = counts[f"windows_{m}"]
        for level in options["level"]:
            if level == "expert":
                yield m, level, windows.reshape(*windows.shape[:-3], -1, m + 1)
            elif level == "layer":
                yield m, level, windows.sum(axis=-2)
            else:
                yield m, level, windows.sum(axis=(-3, -2))[..., None, :]


def best(histograms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """srp and the chosen threshold, both [...] from histograms [..., m + 1]."""
    from probes.metrics.kernels.segments import best_f1

    flat = np.ascontiguousarray(histograms).reshape(-1, histograms.shape[-1])
    value, threshold = np.empty(len(flat)), np.empty(len(flat), np.int64)
    best_f1(flat, value, threshold)
    return value.reshape(histograms.shape[:-1]), threshold.reshape(histograms.shape[:-1])


def estimate(counts: Counts, options: Options, about: About) -> np.ndarray:
    """srp [..., G, rows]: segment lengths, levels, then layers and experts."""
    return np.concatenate([best(histograms)[0] for _, _, histograms in levels(counts, options)], axis=-1)


def draws(sums: Any, groups: Any, options: Options, about: About) -> np.ndarray:
    """`estimate` of every resample [R, G · rows], from the cells of the histograms that are not empty."""
    by_group = []
    for g in range(len(about.groups)):
        parts = [_draws_of(sums[f"windows_{m}"], groups, g, m, options, about) for m in options["segment_length"]]
        by_group.append(np.concatenate(parts, axis=1))
    return np.concatenate(by_group, axis=1)


def _draws_of(sums: Any, groups: Any, g: int, m: int, options: Options, about: About) -> np.ndarray:
    from probes.metrics.kernels.segments import best_f1_of_cells

    layers, experts = sums.shape[:2]
    row, f = np.divmod(sums.columns, m + 1)
    bounds = np.searchsorted(row, np.arange(layers * experts + 1))
    resamples = len(sums.values)
    out = {"expert": (resamples, layers * experts), "layer": (resamples, layers), "model": (resamples, 1)}
    value = {level: np.empty(shape) for level, shape in out.items()}
    mine = sums.values[:, range(sums.values.shape[1])[groups][g] if isinstance(groups, slice) else groups[g]]
    best_f1_of_cells(mine, f, bounds, m, experts, value["expert"], value["layer"], value["model"])
    return np.concatenate([value[level] for level in options["level"]], axis=1)


def table(counts: Counts, options: Options, about: About) -> pd.DataFrame:
    """One row per (segment length, level, layer, expert)."""
    import pandas as pd

    frames, row = [], 0
    width = sum(h.shape[-2] for _, _, h in levels(counts, options))
    for m, level, histograms in levels(counts, options):
        size = histograms.shape[-2]
        frame = _level_table(m, level, histograms, counts, about)
        place = row + np.arange(size)
        frame.index = pd.Index((np.arange(len(about.groups))[:, None] * width + place).ravel())
        frames.append(frame)
        row += size
    joined = pd.concat(frames)
    joined[["layer", "expert"]] = joined[["layer", "expert"]].astype("Int64")
    return joined


def _level_table(m: int, level: str, histograms: np.ndarray, counts: Counts, about: About) -> pd.DataFrame:
    index = axes(about, *{"expert": ("layer", "expert"), "layer": ("layer",), "model": ()}[level])
    value, threshold = best(histograms)
    f = np.arange(m + 1)
    activations, windows = (histograms * f).sum(axis=-1), histograms.sum(axis=-1)
    predicted = m * (histograms * (f >= threshold[..., None])).sum(axis=-1)
    per_group = {"expert": 1, "layer": about.num_experts, "model": about.num_experts * about.num_layers}[level]
    tokens = counts["tokens_any"][:, None] if level == "model" else counts["n_tokens"]
    if level == "expert":
        tokens = np.repeat(tokens, about.num_experts, axis=1)
    columns: dict[str, Any] = {
        "segment_length": np.full(value.shape, m),
        "srp": value,
        "cache_ratio": np.where(windows > 0, np.where(activations > 0, ratio(predicted, activations), 0), np.nan),
        "activation_ratio": ratio(activations, m * windows),
        "n_windows": windows // per_group,
        "n_tokens": tokens,
        "missing_share": 1 - ratio(tokens, counts["seen"][:, None]),
    }
    shape = tuple(len(v) for v in index.values())
    frame = grid(index, {name: np.asarray(v).reshape(shape) for name, v in columns.items()})
    by = [about.by] if about.by else []
    frame = frame.assign(level=level).reindex(columns=[*by, "level", "layer", "expert", *columns])
    return frame


LENGTHS = (4, 16, 64, 256)
SEGMENT_LENGTH = Option("segment_length", int, LENGTHS, "tokens per segment, m", low=1, high=100_000, repeatable=True)

METRIC = Metric(
    name="srp",
    title="Segment routing best performance (SRP)",
    question="How well can one fixed choice of experts serve a whole segment of tokens?",
    formula="over all sliding windows of m tokens inside a sequence, f(e,w) = activations of e in w: TP(j) = "
    "Σ_{f≥j} f, P(j) = m·#{f≥j}, A = TP(0); srp = max_j 2·TP(j) / max(P(j)+A, 1), one threshold j for the "
    "whole group (the lowest of equals); cache_ratio = P(j*)/A; activation_ratio = A/P(0)",
    source="moe-lrc, arXiv 2505.16056",
    options=(
        SEGMENT_LENGTH,
        Option("level", str, LEVELS, "group that shares one threshold", LEVELS, repeatable=True),
    ),
    columns=(
        Column("level", "name", "expert, layer or model: what shares one threshold"),
        Column("layer", "index", "the model's own layer index; null for the model", 0),
        Column("expert", "index", "expert; null for layers and the model", 0),
        Column("segment_length", "tokens", "m", 1),
        Column("srp", "ratio", "best F1 of serving segments by whole experts; null without windows", 0, 1),
        Column("cache_ratio", "ratio", "experts kept at the best threshold over experts active", 0),
        Column("activation_ratio", "ratio", "mean share of a window's tokens that activate an expert", 0, 1),
        Column("n_windows", "windows", "windows inside sequences", 0),
        Column("n_tokens", "tokens", "tokens with routing (in any layer, for the model)", 0),
        Column("missing_share", "share", "positions without routing", 0, 1),
    ),
    count=count,
    table=table,
    estimate=estimate,
    cells=cells,
    draws=draws,
    value="srp",
    laws=(
        "expert_permutation",
        "empty_slots",
        "rank_order",
        "sequence_order",
        "range",
        "additivity",
        "missing",
        "duplication",
    ),
    ends={"one_hot": {"srp": lambda k, e: 1.0, "cache_ratio": lambda k, e: 1.0}},
)
