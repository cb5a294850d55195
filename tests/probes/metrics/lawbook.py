"""The checks behind probes.metrics.laws: each takes a function, its metric and a case, and raises AssertionError."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from probes.metrics import function as function_module
from probes.metrics.registry import Metric
from tests.probes.metrics.cases import OPTIONS, PER_EXPERT, Case, drop_routing, drop_slots, take

KEYS = [
    "batch",
    "label",
    "token",
    "target",
    "level",
    "definition",
    "policy",
    "layer",
    "expert",
    "other",
    "next_layer",
    "next_expert",
    "segment_length",
    "cache_size",
    "p",
    "gamma",
    "gate_rank",
    "norm_rank",
    "criterion",
    "a",
    "b",
    "kind",
]
# These name one of several equals, or where something was found: which one may change.
TIES = {"rank", "keep", "token", "sequence_id", "position"}
COUNTS = {"count", "n_tokens", "n_xy", "n_x", "n_y", "n_windows", "n_sequences", "n", "n_ij", "histogram", "capacity"}
BY_CHANCE = {"mi_chance"}  # of as many tokens: less of more of them
COUNTS |= {"a1", "d1", "a2", "d2"}
Check = Callable[[Callable[..., pd.DataFrame], Metric, Case, np.random.Generator], None]


def options(metric: Metric) -> dict[str, Any]:
    return OPTIONS.get(metric.name, {})


def same(a: pd.DataFrame, b: pd.DataFrame, leave_out: set[str] = frozenset()) -> None:
    """Both tables have the same rows, in any order, with the same values."""
    keys = [c for c in a.columns if c in KEYS and not (c == "token" and "position" in a)]
    a, b = (frame.sort_values(keys, kind="stable", key=_sortable).reset_index(drop=True) for frame in (a, b))
    assert len(a) == len(b)
    for name in a.columns:
        if name in leave_out:
            continue
        one, other = a[name], b[name]
        if name in keys or one.map(lambda v: isinstance(v, (list, str, bool, np.bool_))).any():
            assert [str(v) for v in one] == [str(v) for v in other], name
        else:
            left, right = (x.astype("Float64").to_numpy(float, na_value=np.nan) for x in (one, other))
            np.testing.assert_allclose(left, right, rtol=1e-9, atol=1e-9, err_msg=name)


def _sortable(column: pd.Series) -> pd.Series:
    return column.astype(str)


def expert_permutation(f: Any, metric: Metric, case: Case, rng: np.random.Generator) -> None:
    new = rng.permutation(case["num_experts"])
    moved = {**case, "experts": np.where(case["experts"] < 0, case["experts"], new[case["experts"]])}
    moved["other_experts"] = np.where(case["other_experts"] < 0, case["other_experts"], new[case["other_experts"]])
    for name in ("logits", "other_logits", "expert_norm"):
        moved[name] = np.empty_like(case[name])
        moved[name][:, :, new] = case[name]
    for name in PER_EXPERT:
        moved[name] = np.empty_like(case[name])
        moved[name][:, new] = case[name]
    before = f(**case, **options(metric))
    for name in {"expert", "other", "next_expert", "cluster"} & set(before.columns):
        there = before[name].map(lambda e: e if pd.isna(e) else new[int(e)]).astype(before[name].dtype)
        routed = before["kind"] != "shared" if "kind" in before else before[name].notna()
        before[name] = there.where(routed, before[name])  # shared experts keep their numbers
    same(before, f(**moved, **options(metric)), TIES)


def rank_order(f: Any, metric: Metric, case: Case, rng: np.random.Generator) -> None:
    order = rng.permuted(np.broadcast_to(np.arange(case["experts"].shape[2]), case["experts"].shape), axis=2)
    slots = ("experts", "weights", "output_norm", "output_absmax")
    moved = {**case, **{name: np.take_along_axis(case[name], order, axis=2) for name in slots}}
    same(f(**case, **options(metric)), f(**moved, **options(metric)), TIES)


def token_order(f: Any, metric: Metric, case: Case, rng: np.random.Generator) -> None:
    sequence = case["sequence_id"]
    tokens = np.concatenate([rng.permutation(np.flatnonzero(sequence == s)) for s in pd.unique(sequence)])
    same(f(**case, **options(metric)), f(**take(case, tokens), **options(metric)), TIES)


def sequence_order(f: Any, metric: Metric, case: Case, rng: np.random.Generator) -> None:
    sequence = case["sequence_id"]
    tokens = np.concatenate([np.flatnonzero(sequence == s) for s in rng.permutation(pd.unique(sequence))])
    same(f(**case, **options(metric)), f(**take(case, tokens), **options(metric)), TIES)


def value_range(f: Any, metric: Metric, case: Case, rng: np.random.Generator) -> None:
    frame = f(**case, **options(metric))
    for column in metric.columns:
        if column.name in frame and (column.low is not None or column.high is not None):
            values = frame[column.name].astype("Float64").dropna().to_numpy(float)
            assert np.all(values >= (-np.inf if column.low is None else column.low) - 1e-9), column.name
            assert np.all(values <= (np.inf if column.high is None else column.high) + 1e-9), column.name


def additivity(f: Any, metric: Metric, case: Case, rng: np.random.Generator) -> None:
    whole = f(**case, **options(metric))
    before = function_module._CHUNK_CELLS
    function_module._CHUNK_CELLS = 1
    try:
        same(whole, f(**case, **options(metric)))
    finally:
        function_module._CHUNK_CELLS = before


def duplication(f: Any, metric: Metric, case: Case, rng: np.random.Generator) -> None:
    tokens = np.tile(np.arange(len(case["experts"])), 2)
    twice = take(case, tokens)
    twice["sequence_id"] = twice["sequence_id"] + 1000 * (np.arange(len(tokens)) >= len(tokens) // 2)
    same(f(**case, **options(metric)), f(**twice, **options(metric)), COUNTS | TIES | BY_CHANCE)


def empty_slots(f: Any, metric: Metric, case: Case, rng: np.random.Generator) -> None:
    """Two more slots, all of them empty, and the empty ones anywhere among the others."""
    case = drop_slots(case, rng) if "top_k" not in case else case
    tokens, layers, k = case["experts"].shape
    places = np.sort(np.argsort(rng.random((tokens, layers, k + 2)), axis=2)[:, :, :k], axis=2)
    moved = dict(case)
    for name, empty in (("experts", -1), ("weights", np.nan), ("output_norm", np.nan), ("output_absmax", np.nan)):
        moved[name] = np.full((tokens, layers, k + 2), empty, case[name].dtype)
        np.put_along_axis(moved[name], places, case[name], axis=2)
    moved["other_experts"] = np.pad(case["other_experts"], ((0, 0), (0, 0), (1, 2)), constant_values=-1)
    same(f(**case, **options(metric)), f(**moved, **options(metric)))


AGREE = {"saturation": 1.0, "change_rate": 0.0, "slot_change": 0.0, "changed_share": 0.0, "max_logit_difference": 0.0}


def self_agreement(f: Any, metric: Metric, case: Case, rng: np.random.Generator) -> None:
    case = case | {"other_experts": case["experts"], "other_logits": case["logits"]}
    summaries = [{"summary": True}] if any(o.name == "summary" for o in metric.options) else []
    for given in ({}, *summaries):
        frame = f(**case, **options(metric), **given)
        assert "changed" not in frame or not len(frame)
        for name in AGREE.keys() & set(frame.columns):
            np.testing.assert_allclose(frame[name].dropna(), AGREE[name], atol=1e-12, err_msg=name)


def missing(f: Any, metric: Metric, case: Case, rng: np.random.Generator) -> None:
    tokens = np.sort(np.concatenate([np.arange(len(case["experts"])), rng.integers(0, len(case["experts"]), 4)]))
    added = np.append(False, tokens[1:] == tokens[:-1])
    longer = drop_routing(take(case, tokens), added[:, None] & np.ones(case["experts"].shape[1], bool))
    same(f(**case, **options(metric)), f(**longer, **options(metric)), {"missing_share", *TIES})


CHECKS: dict[str, Check] = {
    "expert_permutation": expert_permutation,
    "rank_order": rank_order,
    "token_order": token_order,
    "sequence_order": sequence_order,
    "range": value_range,
    "additivity": additivity,
    "duplication": duplication,
    "missing": missing,
    "empty_slots": empty_slots,
    "self_agreement": self_agreement,
}
