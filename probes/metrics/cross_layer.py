"""What one layer's choice says about the next one's.

Two tokens, two layers: 0→1 and 1→0. The first layer tells the second exactly: 1 bit, normalised 1.

>>> from probes import metrics
>>> t = metrics.cross_layer([[[0], [1]], [[1], [0]]], num_experts=2)
>>> t[["layer", "next_layer", "mi_bits", "nmi", "cramers_v"]].values.tolist()
[[0.0, 1.0, 1.0, 1.0, 1.0]]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from probes.errors import UsageError
from probes.metrics.chance import independent_bits
from probes.metrics.chunk import About, Chunk
from probes.metrics.registry import Column, Counts, Metric, Option, Options
from probes.metrics.tables import axes, coverage, grid, ratio

if TYPE_CHECKING:
    import pandas as pd


def check(options: Options, about: About) -> None:
    """There is a layer that far on."""
    if about.num_layers <= options["distance"]:
        raise UsageError(f"cross_layer needs more than {options['distance']} MoE layers; there are {about.num_layers}")


def count(chunk: Chunk, options: Options) -> Counts:
    """pairs [G, L − distance, E, E] and n_tokens [G, L − distance]: tokens routed in both layers."""
    from probes.metrics.kernels.counting import count_transitions

    groups, _, layers, _, experts = chunk.shape
    step = options["distance"]
    pairs = np.zeros((groups, layers - step, experts, experts), np.int64)
    ids = chunk.experts[:, :, :1] if options["rank"] == "1" else chunk.experts
    count_transitions(ids, chunk.group, step, pairs)
    both = chunk.routed[:, :-step] & chunk.routed[:, step:]
    each = [np.bincount(chunk.group[both[:, i]], minlength=groups) for i in range(layers - step)]
    return {"pairs": pairs, "n_tokens": np.stack(each, axis=1)}


def cells(options: Options, about: About) -> int:
    """How many numbers `count` makes per group."""
    return about.num_layers * about.num_experts**2


def information(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mutual information in bits and normalised by the mean of both entropies, [...] from counts [..., E, E]."""
    p = ratio(pairs, pairs.sum(axis=(-2, -1), keepdims=True))
    a, b, both = (_entropy_bits(x) for x in (p.sum(axis=-1), p.sum(axis=-2), p.reshape(*p.shape[:-2], -1)))
    bits = np.maximum(a + b - both, 0)
    return bits, ratio(bits, (a + b) / 2)


def _entropy_bits(p: np.ndarray) -> np.ndarray:
    logs = np.log2(p, out=np.zeros_like(p), where=p > 0)
    return np.where(np.isnan(p).any(axis=-1), np.nan, -(p * logs).sum(axis=-1)) + 0.0


def cramers_v(pairs: np.ndarray) -> np.ndarray:
    """√(χ² / (n · (min(rows, columns) − 1))) over the experts that occur; NaN if only one does."""
    n = pairs.sum(axis=(-2, -1))
    rows, columns = pairs.sum(axis=-1, keepdims=True), pairs.sum(axis=-2, keepdims=True)
    expected = ratio(rows * columns, n[..., None, None])
    chi2 = np.nansum(ratio((pairs - expected) ** 2, expected), axis=(-2, -1))
    size = np.minimum((rows > 0).sum(axis=(-2, -1)), (columns > 0).sum(axis=(-2, -1)))
    return np.sqrt(ratio(chi2, n * np.maximum(size - 1, 0)))


def chance(pairs: np.ndarray, n_tokens: np.ndarray) -> np.ndarray:
    """Bits that as many tokens show where the layers choose without regard to each other, loads as they are."""
    n = pairs.sum(axis=(-2, -1))
    k = np.sqrt(n / np.maximum(n_tokens, 1))  # a token has k² pairs
    return independent_bits(pairs.sum(axis=-1), pairs.sum(axis=-2), n, k)


def estimate(counts: Counts, options: Options, about: About) -> np.ndarray:
    """mi_bits [..., L − distance], or the transitions' share of their expert [..., L − distance, E, E]."""
    pairs = counts["pairs"]
    if options["transitions"]:
        return ratio(pairs, pairs.sum(axis=-1, keepdims=True))
    return information(pairs)[0]


def table(counts: Counts, options: Options, about: About) -> pd.DataFrame:
    """One row per pair of layers, or with `transitions` per pair of experts."""
    step = options["distance"]
    first, following = about.layers[:-step], about.layers[step:]
    index: dict[str, Any] = {**axes(about), "layer": first}
    if not options["transitions"]:
        bits, nmi = information(counts["pairs"])
        columns = {"next_layer": np.broadcast_to(following, bits.shape), "mi_bits": bits, "nmi": nmi}
        columns |= {"cramers_v": cramers_v(counts["pairs"]), "mi_chance": chance(counts["pairs"], counts["n_tokens"])}
        return grid(index, {**columns, **coverage(counts)})
    experts = np.arange(about.num_experts)
    shares = estimate(counts, options, about)
    after = np.broadcast_to(following, counts["n_tokens"].shape)
    columns = {"next_layer": after, "n": counts["pairs"], "share": shares, **coverage(counts)}
    frame = grid({**index, "expert": experts, "next_expert": experts}, columns)
    by = [about.by] if about.by else []
    order = [*by, "layer", "expert", "next_layer", "next_expert", "n", "share"]
    return frame[[*order, *(c for c in frame.columns if c not in order)]]


METRIC = Metric(
    name="cross_layer",
    title="Cross-layer routing",
    question="What does one layer's choice say about the next layer's?",
    formula="counts of expert → expert from a MoE layer to the next, per token: mi = Σ p log2(p / (p_row "
    "p_column)) in bits; nmi = mi / mean of both entropies; Cramér's V = √(χ² / (n·(min(rows, columns) − "
    "1))) over the experts that occur. mi_chance: a finite table is never quite independent, by about (E − k)² / "
    "(2 n ln 2) bits of n pairs where it is well filled, k 1 for rank 1; each cell Poisson around its expectation",
    source="RMoE, arXiv 2408.06793; Omni-router, arXiv 2507.05724",
    options=(
        Option("rank", str, "1", "pair the first-ranked experts, or all with all", ("1", "all")),
        Option("distance", int, 1, "how many MoE layers on", low=1),
        Option("transitions", bool, False, "one row per pair of experts, with its count"),
    ),
    check=check,
    columns=(
        Column("layer", "index", "the model's own layer index", 0),
        Column("expert", "index", "expert of the layer (transitions)", 0),
        Column("next_layer", "index", "the layer compared with", 0),
        Column("next_expert", "index", "expert of the next layer (transitions)", 0),
        Column("n", "pairs", "tokens (rank 1) or pairs of slots with this transition", 0),
        Column("share", "share", "of the transitions from this expert", 0, 1),
        Column("mi_bits", "bits", "mutual information", 0),
        Column("nmi", "ratio", "mutual information over the mean entropy; null if neither layer varies", 0, 1),
        Column("cramers_v", "ratio", "Cramér's V; null if a layer does not vary", 0, 1),
        Column("mi_chance", "bits", "mi_bits expected of layers that ignore each other: as many pairs, same loads", 0),
        Column("n_tokens", "tokens", "tokens with routing in both layers", 0),
        Column("missing_share", "share", "positions without routing in one of them", 0, 1),
    ),
    count=count,
    table=table,
    estimate=estimate,
    cells=cells,
    value="mi_bits",
    laws=(
        "expert_permutation",
        "empty_slots",
        "token_order",
        "sequence_order",
        "range",
        "additivity",
        "missing",
        "duplication",
    ),
    ends={"one_hot": {"mi_bits": lambda k, e: 0.0}},
)
