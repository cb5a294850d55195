"""How alike are two experts: in what the router looks for, in their weights, in what they give?

Mean outputs (1, 0), (1, 1), (0, 1): cosine 0.707 between neighbours, 0 between the ends.

>>> from probes import metrics
>>> moments = dict(output_count=[[1, 1, 1]], output_mean=[[[1, 0], [1, 1], [0, 1]]], output_m2=[[[0, 0]] * 3])
>>> t = metrics.expert_similarity([[0], [1], [2]], num_experts=3, **moments)
>>> t[t.expert == 0][["other", "similarity"]].round(3).values.tolist()
[[1.0, 0.707], [2.0, 0.0]]

Two experts with the same two neurons in another order: their weights differ as they stand, and not once matched.

>>> neurons = [[[[1, 0], [0, 1]], [[0, 1], [1, 0]]]]
>>> t = metrics.expert_similarity([[0]], num_experts=2, expert_weight=neurons, kind=["weights", "matched"])
>>> t[t.expert == 0][["kind", "similarity"]].round(6).values.tolist()
[['weights', 0.0], ['matched', 1.0]]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from probes.metrics.chunk import MOMENTS, About, Chunk
from probes.metrics.registry import Column, Counts, Metric, Option, Options
from probes.metrics.tables import axes, coverage, grid, ratio

if TYPE_CHECKING:
    import pandas as pd

NEEDS = {
    "outputs": MOMENTS,
    "router": ("router_weight",),
    "weights": ("expert_weight",),
    "matched": ("expert_weight",),
}


def needs(options: Options) -> tuple[str, ...]:
    """The arrays of the kinds asked for."""
    return tuple(dict.fromkeys(name for kind in options["kind"] for name in NEEDS[kind]))


def count(chunk: Chunk, options: Options) -> Counts:
    """same_<kind> [1, L, E, E]: cosines, which are of the whole run or of the model."""
    if not chunk.state:
        for kind in options["kind"]:
            layers = range(chunk.about.num_layers)
            chunk.state[f"same_{kind}"] = np.stack([_similarity(chunk, kind, i) for i in layers])[None]
    return dict(chunk.state)


def _similarity(chunk: Chunk, kind: str, i: int) -> np.ndarray:
    arrays = chunk.arrays
    if kind == "outputs":
        seen = np.asarray(arrays.output_count)[i][:, None] > 0
        return cosines(np.where(seen, np.asarray(arrays.output_mean)[i], np.nan))
    if kind == "router":
        return cosines(np.asarray(arrays.router_weight[i]))
    neurons = np.asarray(arrays.expert_weight[i])
    return matched(neurons) if kind == "matched" else cosines(neurons.reshape(len(neurons), -1))


def cosines(vectors: np.ndarray) -> np.ndarray:
    """[E, E] from vectors [E, D]; NaN where one of them is unknown or 0."""
    vectors = np.asarray(vectors, np.float64)
    size = np.linalg.norm(vectors, axis=1)
    return np.clip(ratio(vectors @ vectors.T, np.outer(size, size)), -1, 1)


def matched(neurons: np.ndarray) -> np.ndarray:
    """[E, E] from neurons [E, N, W]: the cosine after the order of neurons that makes it largest (Hungarian method)."""
    from scipy.optimize import linear_sum_assignment

    size = np.linalg.norm(neurons.reshape(len(neurons), -1), axis=1)
    products = np.diag(size.astype(np.float64) ** 2)
    for one in range(len(neurons)):
        for other in range(one):
            pairs = neurons[one] @ neurons[other].T
            at = linear_sum_assignment(pairs, maximize=True)
            products[one, other] = products[other, one] = pairs[at].sum(dtype=np.float64)
    return np.clip(ratio(products, np.outer(size, size)), -1, 1)


def table(counts: Counts, options: Options, about: About) -> pd.DataFrame:
    """One row per (layer, kind, ordered pair of experts)."""
    values = np.stack([counts[f"same_{kind}"] for kind in options["kind"]], axis=2)
    experts = np.arange(about.num_experts)
    names = {**axes(about, "layer"), "kind": options["kind"], "expert": experts, "other": experts}
    frame = grid(names, {"similarity": values, **coverage(counts)})
    frame = frame[frame["expert"] != frame["other"]].reset_index(drop=True)
    return frame[["layer", "expert", "other", "kind", *(c for c in frame.columns if c not in names)]]


METRIC = Metric(
    name="expert_similarity",
    title="Expert similarity",
    question="How alike are the experts of a layer?",
    formula="cosine between two experts: outputs, of their mean outputs over the run; router, of their rows of the "
    "router's weight; weights, of all their weights strung together; matched, the same after the order of neurons that "
    "makes the sum of products largest. router, weights and matched read the model (--model)",
    source="MC-SMoE, arXiv 2310.01334; HC-SMoE, arXiv 2410.08589",
    options=(
        Option("kind", str, ("outputs",), "what is compared", tuple(NEEDS), repeatable=True),
        Option("model", str, None, "the model that was recorded, for what is read from its weights", metavar="FOLDER"),
    ),
    needs=needs,
    by=(),
    columns=(
        Column("layer", "index", "the model's own layer index", 0),
        Column("expert", "index", "expert", 0),
        Column("other", "index", "the expert it is compared with", 0),
        Column("kind", "name", "what is compared"),
        Column("similarity", "cosine", "1 the same direction; null where one is unknown or 0", -1, 1),
        Column("n_tokens", "tokens", "tokens with routing", 0),
        Column("missing_share", "share", "positions without routing", 0, 1),
    ),
    count=count,
    table=table,
    value="similarity",
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
)
