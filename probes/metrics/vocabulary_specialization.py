"""How much of a token's occurrences one expert takes.

Token 7 goes twice to expert 0 and once to 1, token 9 once to 1: p(7) = 2/3, p(9) = 1, mean 5/6.

>>> from probes import metrics
>>> ids = {"token_id": [7, 7, 7, 9]}
>>> t = metrics.vocabulary_specialization([[0], [0], [1], [1]], num_experts=3, **ids)
>>> t[["value", "n_vocabulary"]].round(6).values.tolist()
[[0.833333, 2.0]]

By expert, each token counts for the expert that has most of it; expert 2 has none.

>>> t = metrics.vocabulary_specialization([[0], [0], [1], [1]], num_experts=3, by_expert=True, **ids)
>>> t[["expert", "value", "n_vocabulary"]].round(6).values.tolist()
[[0.0, 0.666667, 1.0], [1.0, 1.0, 1.0], [2.0, nan, 0.0]]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from probes.metrics.activations import count_experts
from probes.metrics.bootstrap import interval
from probes.metrics.chunk import About, Chunk
from probes.metrics.registry import Column, Counts, Metric, Option, Options
from probes.metrics.tables import grid, ratio
from probes.metrics.token_draws import TokenDraws

if TYPE_CHECKING:
    import pandas as pd

GROUP = {"input": "token", "predicted": "predicted", "next": "next"}


def count(chunk: Chunk, options: Options) -> Counts:
    """chosen [V, L, E]: a group per vocabulary entry; n_tokens [V, L] are its occurrences."""
    return {"chosen": count_experts(chunk, first_only=options["top"] == "1")}


def table(counts: Counts, options: Options, about: About) -> pd.DataFrame:
    """One row per layer, or per (layer, expert)."""
    occurrences = counts["n_tokens"]
    often = (occurrences >= options["min_count"]) & (occurrences > 0)
    best = counts["chosen"].max(axis=-1)
    p = np.where(often, ratio(best, occurrences), 0.0)
    cover = _coverage(counts)
    if not options["by_expert"]:
        columns = {"value": ratio(p.sum(axis=0), often.sum(axis=0)), "n_vocabulary": often.sum(axis=0), **cover}
        return grid({"layer": about.layers}, columns)
    n, total = _per_expert(counts["chosen"], p, often)
    index = {"layer": about.layers, "expert": np.arange(about.num_experts)}
    return grid(index, {"value": ratio(total, n), "n_vocabulary": n, **cover})


def token_intervals(draws: TokenDraws, counts: Counts, options: Options, about: About) -> tuple[np.ndarray, np.ndarray]:
    """Interval of every value of the table; a token counts in a resample if it is frequent enough there."""
    value = table(counts, options, about)["value"].to_numpy()
    total = np.zeros((draws.weights.resamples, value.size))
    n = np.zeros_like(total)
    for chosen, occurrences in draws.each(np.arange(len(counts["n_tokens"]))):
        often = (occurrences >= options["min_count"]) & (occurrences > 0)
        p = np.where(often, ratio(chosen.max(axis=-1), occurrences), 0.0)
        if options["by_expert"]:
            cell = np.arange(about.num_layers) * about.num_experts + chosen.argmax(axis=-1)
            np.put_along_axis(n, cell, np.take_along_axis(n, cell, axis=1) + often, axis=1)
            np.put_along_axis(total, cell, np.take_along_axis(total, cell, axis=1) + p, axis=1)
        else:
            n += often
            total += p
    return interval(value, ratio(total, n))


def _coverage(counts: Counts) -> dict[str, np.ndarray]:
    n_tokens = counts["n_tokens"].sum(axis=0)
    return {"n_tokens": n_tokens, "missing_share": 1 - ratio(n_tokens, counts["seen"].sum())}


def _per_expert(chosen: np.ndarray, p: np.ndarray, often: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many entries each expert has most of, and the sum of their p: [L, E] each. A tie goes to the lower id."""
    layers, experts = chosen.shape[1:]
    cell = np.arange(layers) * experts + chosen.argmax(axis=-1)
    n = np.bincount(cell[often], minlength=layers * experts)
    total = np.bincount(cell[often], weights=p[often], minlength=layers * experts)
    return n.reshape(layers, experts), total.reshape(layers, experts)


METRIC = Metric(
    name="vocabulary_specialization",
    title="Vocabulary specialization",
    question="Does one expert take all occurrences of a token?",
    formula="p(v) = max_e count(v,e) / occurrences(v); value = unweighted mean over v. By expert: mean of p(v) "
    "over the v it has most of (a tie goes to the lower id)",
    source="OLMoE, arXiv 2409.02060 (top 1, every token); by expert with min count 20: moe-lrc, arXiv 2505.16056",
    options=(
        Option("kind", str, "input", "the token at t, the model's guess at t, or the token at t+1", tuple(GROUP)),
        Option("top", str, "1", "count only the first-ranked expert, or all k", ("1", "k")),
        Option("min_count", int, 1, "leave out tokens seen fewer times", low=1),
        Option("by_expert", bool, False, "one row per expert"),
    ),
    groups=lambda options: GROUP[options["kind"]],
    columns=(
        Column("layer", "index", "the model's own layer index", 0),
        Column("expert", "index", "expert (by expert)", 0),
        Column("value", "share", "mean share of a token's occurrences that its main expert takes", 0, 1),
        Column("n_vocabulary", "tokens of the vocabulary", "entries the mean is over", 0),
        Column("n_tokens", "tokens", "positions with routing and a target", 0),
        Column("missing_share", "share", "positions without routing among those with a target", 0, 1),
    ),
    count=count,
    table=table,
    token_intervals=token_intervals,
    value="value",
    laws=("expert_permutation", "empty_slots", "sequence_order", "range", "additivity", "missing", "duplication"),
    ends={"one_hot": {"value": lambda k, e: 1.0}},
)
