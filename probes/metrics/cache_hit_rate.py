"""What a real cache of experts would do.

One expert per token, 0 1 0 2 0, a cache of two: 0 and 1 come into an empty cache, 0 hits, 2 pushes out the least
recently used (1), 0 hits: 4 of 5 (2 misses: the cache had already seen two).

>>> from probes import metrics
>>> t = metrics.cache_hit_rate([[0], [1], [0], [2], [0]], num_experts=3, level="layer", cache_size=2)
>>> t.hit_rate.tolist()
[0.8]

First in, first out evicts 0 instead, which the last token then misses:

>>> t = metrics.cache_hit_rate([[0], [1], [0], [2], [0]], num_experts=3, level="layer", cache_size=2, policy="fifo")
>>> t.hit_rate.tolist()
[0.6]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from probes.metrics.chunk import About, Chunk
from probes.metrics.registry import Column, Counts, Metric, Option, Options
from probes.metrics.sch import CACHE_SIZE, LEVELS, cache_table, check, hit_rates, sizes
from probes.metrics.tables import ratio

if TYPE_CHECKING:
    import pandas as pd

POLICIES = {"lru": 1, "lfu": 2, "belady": 3, "fifo": 4, "lifo": 5}


def count(chunk: Chunk, options: Options) -> Counts:
    """Per policy and level [G, rows, sizes + 1]: sums of per-sequence hit rates; last, the sequences."""
    counts: Counts = {}
    for policy in options["policy"]:
        for level in options["level"]:
            fitting = sizes(level, options, chunk.about)
            counts[f"{policy}_{level}"] = hit_rates(chunk, level, 1, fitting, POLICIES[policy])
    counts["tokens_any"] = np.bincount(chunk.group[chunk.routed.any(axis=1)], minlength=chunk.n_groups)
    return counts


def _parts(counts: Counts, options: Options) -> list[tuple[str, str, np.ndarray]]:
    return [(p, level, counts[f"{p}_{level}"]) for p in options["policy"] for level in options["level"]]


def estimate(counts: Counts, options: Options, about: About) -> np.ndarray:
    """hit_rate [..., G, rows]: policies, levels, then layers and cache sizes."""
    values = [ratio(sums[..., :-1], sums[..., -1:]) for _, _, sums in _parts(counts, options)]
    return np.concatenate([v.reshape(*v.shape[:-2], -1) for v in values], axis=-1)


def table(counts: Counts, options: Options, about: About) -> pd.DataFrame:
    """One row per (policy, level, layer, cache size)."""
    parts = [
        (level, sums[..., -1].astype(np.int64), ratio(sums[..., :-1], sums[..., -1:]), {"policy": policy})
        for policy, level, sums in _parts(counts, options)
    ]
    frame = cache_table(about, "hit_rate", parts, options, counts, first={})
    by = [about.by] if about.by else []
    return frame[[*by, "policy", *(c for c in frame.columns if c not in (*by, "policy"))]]


METRIC = Metric(
    name="cache_hit_rate",
    title="Cache hit rate",
    question="How often would a real cache of C experts hit?",
    formula="per sequence, count the hits of a token's k experts against the cache as it was before the token (an "
    "expert new to the sequence hits iff fewer than C distinct ones were seen), then insert them in "
    "listed order; hits/(T·k), mean over sequences. Evicted is: lru the least recently used; lfu the "
    "least often used so far (ties: lru); fifo the first inserted; lifo the last inserted; belady the one "
    "used again last",
    source="accounting: moe-lrc, arXiv 2505.16056; lifo: expert buffering, arXiv 2303.06182",
    options=(
        Option("policy", str, ("lru",), "which member is evicted", tuple(POLICIES), repeatable=True),
        Option("level", str, LEVELS, "a cache per layer, or one for the model", LEVELS, repeatable=True),
        CACHE_SIZE,
    ),
    check=check,
    columns=(
        Column("policy", "name", "lru, lfu, fifo, lifo or belady"),
        Column("level", "name", "layer: a cache per layer; model: one for all layers"),
        Column("layer", "index", "the model's own layer index; null for the model", 0),
        Column("cache_size", "experts", "C", 1),
        Column("cache_ratio", "ratio", "C/k, for the model C/(L·k)", 0),
        Column("hit_rate", "ratio", "mean over sequences of hits/(T·k)", 0, 1),
        Column("n_sequences", "sequences", "sequences with routing", 0),
        Column("n_tokens", "tokens", "tokens with routing (in any layer, for the model)", 0),
        Column("missing_share", "share", "positions without routing", 0, 1),
    ),
    count=count,
    table=table,
    estimate=estimate,
    value="hit_rate",
    laws=("expert_permutation", "empty_slots", "sequence_order", "range", "additivity", "missing", "duplication"),
)
