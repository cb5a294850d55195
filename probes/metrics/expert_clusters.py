"""Which experts give nearly the same output on average, and could be merged?

Mean outputs 0, 1 and 5 on a line: in two clusters experts 0 and 1 belong together; expert 1 is chosen more often.

>>> from probes import metrics
>>> moments = dict(output_count=[[1, 2, 1]], output_mean=[[[0.0], [1.0], [5.0]]], output_m2=[[[0.0]] * 3])
>>> t = metrics.expert_clusters([[0], [1], [1], [2]], num_experts=3, **moments, clusters=2)
>>> t[["expert", "cluster", "is_dominant"]].values.tolist()
[[0, 1, False], [1, 1, True], [2, 2, True]]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from probes.metrics.activations import count_experts
from probes.metrics.chunk import MOMENTS, About, Chunk
from probes.metrics.registry import Column, Counts, Metric, Option, Options
from probes.metrics.tables import axes, coverage, grid

if TYPE_CHECKING:
    import pandas as pd


def count(chunk: Chunk, options: Options) -> Counts:
    """chosen [1, L, E]; same_mean [1, L, E, H], NaN for an expert that gave no output."""
    if "mean" not in chunk.state:  # once per pass: it is of the whole run
        n, mean = np.asarray(chunk.arrays.output_count), np.asarray(chunk.arrays.output_mean, np.float64)
        chunk.state["mean"] = np.where(n[..., None] > 0, mean, np.nan)[None]
    return {"chosen": count_experts(chunk), "same_mean": chunk.state["mean"]}


def clusters_of(mean: np.ndarray, clusters: int) -> np.ndarray:
    """[E] number of each expert's cluster, -1 where it has no mean; mean [E, H]."""
    out = np.full(len(mean), -1)
    known = np.flatnonzero(~np.isnan(mean).any(axis=1))
    if len(known) <= clusters:
        out[known] = np.arange(len(known))
        return out
    from scipy.cluster.hierarchy import cut_tree, linkage

    out[known] = cut_tree(linkage(mean[known], method="average", metric="euclidean"), n_clusters=clusters)[:, 0]
    return out


def dominant(cluster: np.ndarray, chosen: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """[E] for each expert the one that stands for its cluster; -1 without a cluster."""
    out = np.full(len(cluster), -1)
    for number in range(cluster.max(initial=-1) + 1):
        members = np.flatnonzero(cluster == number)
        size = np.linalg.norm(mean[members], axis=1)
        out[members] = members[np.lexsort((-size, -chosen[members]))[0]]
    return out


def table(counts: Counts, options: Options, about: About) -> pd.DataFrame:
    """One row per (layer, expert)."""
    number = options["clusters"] or (about.num_experts + 1) // 2
    means, chosen = counts["same_mean"][0], counts["chosen"][0]
    found = np.stack([dominant(clusters_of(m, number), n, m) for m, n in zip(means, chosen, strict=True)])[None]
    columns = {"cluster": found, "is_dominant": found == np.arange(about.num_experts), **coverage(counts)}
    frame = grid(axes(about, "layer", "expert"), columns)
    frame["cluster"] = frame["cluster"].astype("Int64").where(frame["cluster"] >= 0)
    return frame


METRIC = Metric(
    name="expert_clusters",
    title="Expert clusters",
    question="Which experts give nearly the same output, and could be merged?",
    formula="agglomerative clustering of each layer's experts by their mean output over the run, average linkage, "
    "Euclidean distance, down to --clusters. A cluster goes by the number of its dominant expert: the one chosen most "
    "often, among equals the one with the larger mean output",
    source="HC-SMoE, arXiv 2410.08589",
    options=(Option("clusters", int, None, "clusters per layer (default: half of the experts)", low=1, metavar="N"),),
    needs=MOMENTS,
    by=(),
    columns=(
        Column("layer", "index", "the model's own layer index", 0),
        Column("expert", "index", "expert", 0),
        Column("cluster", "index", "dominant expert of its cluster; null if it gave no output", 0),
        Column("is_dominant", "yes/no", "the one that stands for its cluster"),
        Column("n_tokens", "tokens", "tokens with routing", 0),
        Column("missing_share", "share", "positions without routing", 0, 1),
    ),
    count=count,
    table=table,
    value="cluster",
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
