"""How much probability the router gives to experts it does not choose.

Probabilities 1/2, 1/4, 1/4 with the first chosen: 1/2 is left.

>>> import numpy as np
>>> from probes import metrics
>>> t = metrics.unchosen_mass([[0]], num_experts=3, logits=[[np.log(2), 0.0, 0.0]])
>>> t[["mean", "p95"]].round(6).values.tolist()
[[0.5, 0.5]]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from probes.metrics.chunk import About, Chunk, by_group
from probes.metrics.registry import Column, Counts, Metric, Options
from probes.metrics.scores import layer_probabilities
from probes.metrics.tables import axes, coverage, grid, ratio

if TYPE_CHECKING:
    import pandas as pd


def count(chunk: Chunk, options: Options) -> Counts:
    """mass [G, L], n_tokens [G, L]; and every token's mass, for the quantile, in single precision."""
    mass = np.full(chunk.routed.shape, np.nan)
    for i in range(chunk.about.num_layers):
        at, probability = layer_probabilities(chunk, i)
        taken = chunk.taken[at, i]
        token, slot = np.nonzero(taken)
        probability[token, chunk.experts[at[token], i, slot]] = 0
        mass[at, i] = probability.sum(axis=-1)  # of the others: 1 − Σ chosen, and never below 0 by rounding
    sums = {"mass": by_group(mass, chunk.group, chunk.n_groups)}
    sums["n_tokens"] = by_group(~np.isnan(mass), chunk.group, chunk.n_groups)
    return {**sums, "_mass": [mass.astype(np.float32)], "_row": [chunk.row]}


def estimate(counts: Counts, options: Options, about: About) -> np.ndarray:
    """mean [..., L]."""
    return ratio(counts["mass"], counts["n_tokens"])


def table(counts: Counts, options: Options, about: About) -> pd.DataFrame:
    """One row per layer."""
    rows = np.concatenate(counts["_row"])
    p95 = np.full((len(about.groups), about.num_layers), np.nan)
    for i in range(about.num_layers):
        values = np.concatenate([part[:, i] for part in counts["_mass"]])
        for g in range(len(about.groups)):
            mine = values[(rows == g) & ~np.isnan(values)].astype(np.float64)
            p95[g, i] = np.quantile(mine, 0.95) if len(mine) else np.nan
    columns = {"mean": estimate(counts, options, about), "p95": p95, **coverage(counts)}
    return grid(axes(about, "layer"), columns)


METRIC = Metric(
    name="unchosen_mass",
    title="Unchosen mass",
    question="How much probability goes to experts that are not chosen?",
    formula="1 − Σ probability of the chosen experts; p95: 95th percentile over tokens (linear)",
    source="Mixtral and OLMoE analyses; cf. arXiv 2403.07652",
    needs=("logits",),
    columns=(
        Column("layer", "index", "the model's own layer index", 0),
        Column("mean", "probability", "mean over tokens", 0, 1),
        Column("p95", "probability", "95th percentile over tokens", 0, 1),
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
    ),
    ends={"uniform": {"mean": lambda k, e: 1 - k / e}, "one_hot": {"mean": lambda k, e: 0.0}},
)
