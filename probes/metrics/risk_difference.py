"""Which experts are chosen more often in one set of tokens than in another.

Expert 0 takes both tokens of "a" and one of two of "b": rd = 2/2 − 1/2.

>>> from probes import metrics
>>> args = dict(experts=[[0], [0], [0], [1]], sequence_id=[0, 0, 1, 1], num_experts=2)
>>> t = metrics.risk_difference(**args, label=["a", "b"], first="a", against="b")
>>> t[["expert", "rd", "a1", "d1", "a2", "d2"]].values.tolist()
[[0.0, 0.5, 2.0, 0.0, 1.0, 1.0], [1.0, -0.5, 0.0, 2.0, 1.0, 1.0]]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from probes.errors import UsageError, unknown
from probes.metrics.activations import count_experts, count_ids, stored_counts
from probes.metrics.chunk import About, Chunk
from probes.metrics.registry import Column, Counts, Metric, Option, Options
from probes.metrics.tables import grid, ratio

if TYPE_CHECKING:
    import pandas as pd


def check(options: Options, about: About) -> None:
    """Both sets are named, exist and differ."""
    names = [name for name in about.groups if name is not None]
    for option in ("label", "against"):
        if not options[option]:
            raise UsageError(f"risk_difference compares two labels: give --label A --against B; there are {names}")
        if options[option] not in names:
            raise unknown(f"label for --{option}", options[option], names)
    if options["label"] == options["against"]:
        raise UsageError("risk_difference compares two labels: --label and --against are the same")


def _pair(options: Options, about: About) -> list[int]:
    return [about.groups.index(options["label"]), about.groups.index(options["against"])]


def count(chunk: Chunk, options: Options) -> Counts:
    """chosen [G, L, E] and n_tokens [G, L]; with a limit only the first tokens of each set, in the trace's order."""
    if options.get("limit") is None:
        return {"chosen": count_experts(chunk)}
    kept = _within_limit(chunk, options)
    ids = np.where(kept[:, :, None], chunk.experts, -1)
    each = [np.bincount(chunk.group[kept[:, i]], minlength=chunk.n_groups) for i in range(kept.shape[1])]
    chosen = count_ids(ids, chunk.group, chunk.n_groups, chunk.arrays.num_experts)
    return {"chosen": chosen, "n_tokens": np.stack(each, axis=1)}


def _within_limit(chunk: Chunk, options: Options) -> np.ndarray:
    """[T, L] bool: the token is one of the first `limit[l]` of its set in that layer."""
    kept = np.zeros(chunk.routed.shape, bool)
    before = chunk.state.setdefault("before", {})
    for group in _pair(options, chunk.about):
        mine = chunk.routed & (np.asarray(chunk.arrays.label) == group)[:, None]
        start = before.get(group, np.zeros(mine.shape[1], np.int64))
        place = np.cumsum(mine, axis=0) + start
        kept |= mine & (place <= options["limit"])
        before[group] = start + mine.sum(axis=0)
    return kept


def second(counts: Counts, options: Options, about: About) -> Options | None:
    """With `equal_tokens` the trace is read again, now that the length of the shorter set is known."""
    if not options["equal_tokens"]:
        return None
    return {**options, "limit": counts["n_tokens"][_pair(options, about)].min(axis=0)}


def aggregates(stored: Any, options: Options, about: About) -> Counts | None:
    """The stored counts by label are enough while both sets are whole."""
    return None if options["equal_tokens"] else stored_counts(stored, about)


def estimate(counts: Counts, options: Options, about: About) -> np.ndarray:
    """rd [..., L, E] = share of the first set's tokens that chose the expert − the same of the second."""
    pair = _pair(options, about)
    shares = ratio(counts["chosen"].take(pair, axis=-3), counts["n_tokens"].take(pair, axis=-2)[..., None])
    return shares[..., 0, :, :] - shares[..., 1, :, :]


def table(counts: Counts, options: Options, about: About) -> pd.DataFrame:
    """One row per (layer, expert), the largest |rd| first; ties by layer, then expert."""
    pair = _pair(options, about)
    a, n = counts["chosen"][pair], counts["n_tokens"][pair][:, :, None]
    columns = {"rd": estimate(counts, options, about), "a1": a[0], "d1": n[0] - a[0], "a2": a[1], "d2": n[1] - a[1]}
    n_tokens = counts["n_tokens"][pair].sum(axis=0)
    columns |= {"n_tokens": n_tokens, "missing_share": 1 - ratio(n_tokens, counts["seen"][pair].sum())}
    frame = grid({"layer": about.layers, "expert": np.arange(about.num_experts)}, columns)
    return frame.sort_values("rd", key=lambda rd: -rd.abs(), kind="stable", na_position="last")


METRIC = Metric(
    name="risk_difference",
    title="Risk difference",
    question="Which experts are chosen more often in one set of tokens than in another?",
    formula="rd = a1/(a1+d1) − a2/(a2+d2); a = tokens that chose the expert, d = tokens that did not",
    source="SteerMoE, arXiv 2509.09660",
    options=(
        Option("label", str, "", "first set: a label, or key=value of the sequences' metadata", keyword="first"),
        Option("against", str, "", "second set, likewise"),
        Option("equal_tokens", bool, False, "use only the first n tokens of each set, n the length of the shorter"),
    ),
    groups=lambda options: "label",
    by=(),
    check=check,
    columns=(
        Column("layer", "index", "the model's own layer index", 0),
        Column("expert", "index", "expert", 0),
        Column("rd", "difference of shares", "share of the first set's tokens minus share of the second's", -1, 1),
        Column("a1", "tokens", "first set, chosen", 0),
        Column("d1", "tokens", "first set, not chosen", 0),
        Column("a2", "tokens", "second set, chosen", 0),
        Column("d2", "tokens", "second set, not chosen", 0),
        Column("n_tokens", "tokens", "tokens of both sets with routing", 0),
        Column("missing_share", "share", "positions of both sets left out", 0, 1),
    ),
    count=count,
    table=table,
    estimate=estimate,
    aggregates=aggregates,
    second=second,
    tags=("label", "against"),
    compares=lambda options, labels: None if options["equal_tokens"] else (options["label"], options["against"]),
    value="rd",
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
    ends={"uniform": {"rd": lambda k, e: 0.0}, "one_hot": {"rd": lambda k, e: 0.0}},
)
