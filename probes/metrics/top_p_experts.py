"""How many experts a top-p router would use.

Probabilities 1/2, 1/4, 1/4: the first alone exceeds 0.4; 0.5 is reached but not exceeded by one, so two.

>>> import numpy as np
>>> from probes import metrics
>>> t = metrics.top_p_experts([[0]], num_experts=3, logits=[[np.log(2), 0.0, 0.0]], p=[0.4, 0.5, 1.0])
>>> t[["p", "mean"]].values.tolist(), t.histogram.tolist()
([[0.4, 1.0], [0.5, 2.0], [1.0, 3.0]], [[1, 0, 0], [0, 1, 0], [0, 0, 1]])
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from probes.metrics.chunk import About, Chunk
from probes.metrics.registry import Column, Counts, Metric, Option, Options
from probes.metrics.scores import layer_probabilities
from probes.metrics.tables import axes, coverage, grid, ratio

if TYPE_CHECKING:
    import pandas as pd


def count(chunk: Chunk, options: Options) -> Counts:
    """histogram [G, L, P, E]: tokens that need n + 1 experts; n_tokens [G, L] with logits."""
    groups, layers, experts = chunk.n_groups, chunk.about.num_layers, chunk.arrays.num_experts
    histogram = np.zeros((groups, layers, len(options["p"]), experts), np.int64)
    for i in range(layers):
        at, probability = layer_probabilities(chunk, i)
        reached = np.cumsum(-np.sort(-probability, axis=-1), axis=-1)
        for j, p in enumerate(options["p"]):
            needed = np.minimum((reached <= p).sum(axis=-1), experts - 1)
            np.add.at(histogram, (chunk.group[at], i, j, needed), 1)
    return {"histogram": histogram, "n_tokens": histogram[:, :, 0].sum(axis=-1)}


def estimate(counts: Counts, options: Options, about: About) -> np.ndarray:
    """mean number of experts [..., L, P]."""
    histogram = counts["histogram"]
    return ratio(histogram @ np.arange(1, about.num_experts + 1), histogram.sum(axis=-1))


def table(counts: Counts, options: Options, about: About) -> pd.DataFrame:
    """One row per (layer, p)."""
    frame = grid(
        {**axes(about, "layer"), "p": options["p"]}, {"mean": estimate(counts, options, about), **coverage(counts)}
    )
    at = list(frame.columns).index("mean") + 1
    frame.insert(at, "histogram", counts["histogram"].reshape(-1, about.num_experts).tolist())
    return frame


METRIC = Metric(
    name="top_p_experts",
    title="Top-p experts",
    question="How many experts would a top-p router use?",
    formula="number of experts whose sorted probabilities first exceed p together, that one included; all if never",
    source="arXiv 2403.07652",
    options=(Option("p", float, (0.4,), "cumulative probability", low=0, high=1, repeatable=True),),
    needs=("logits",),
    columns=(
        Column("layer", "index", "the model's own layer index", 0),
        Column("p", "probability", "cumulative probability to exceed", 0, 1),
        Column("mean", "experts", "mean number of experts", 1),
        Column("histogram", "tokens", "tokens that need 1, 2, … E experts"),
        Column("n_tokens", "tokens", "tokens with logits", 0),
        Column("missing_share", "share", "positions without routing or logits", 0, 1),
    ),
    count=count,
    table=table,
    estimate=estimate,
    value="mean",
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
    ends={"one_hot": {"mean": lambda k, e: 1.0}},
)
