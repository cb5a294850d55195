"""Intervals over sequences: the one-pass sums are what resampling the sequences themselves gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from probes import metrics
from probes.metrics import function as function_module
from probes.metrics import run as run_module
from probes.metrics.bootstrap import Weights, interval
from tests.probes.metrics.cases import Case, random_case
from tests.probes.metrics.lawbook import KEYS, options

PLAIN = {"expert_importance": {"criterion": ("frequency", "reap")}}
# Name, options.
WITH_INTERVALS: list[tuple[str, dict[str, Any]]] = [
    *((n, {**options(m), **PLAIN.get(n, {})}) for n, m in metrics.discover().items() if m.estimate is not None),
    ("npmi", {"target": "token"}),
    ("npmi", {"target": "token", "min_count": 4}),
    ("vocabulary_specialization", {}),
    ("vocabulary_specialization", {"by_expert": True, "top": "k", "kind": "next"}),
    ("vocabulary_specialization", {"kind": "predicted", "min_count": 2}),
]


def test_every_resample_draws_as_many_sequences_as_there_are() -> None:
    weights = Weights(10_000, resamples=20, seed=3)
    drawn = np.concatenate([weights.take(n) for n in (1, 4000, 5000, 999)], axis=1)
    assert (drawn.sum(axis=1) == 10_000).all()
    assert abs(drawn.var() - 1) < 0.02
    assert abs(np.corrcoef(drawn[:, :5000].sum(axis=1), drawn[:, 5000:].sum(axis=1))[0, 1] + 1) < 1e-9


def test_the_draws_do_not_depend_on_how_the_trace_is_cut() -> None:
    whole, parts = Weights(9000, 5, 1), Weights(9000, 5, 1)
    cut = np.concatenate([parts.take(n) for n in (10, 4086, 4000, 904)], axis=1)
    np.testing.assert_array_equal(whole.take(9000), cut)


def test_basic_interval_of_known_draws() -> None:
    low, high = interval(np.array([10.0]), np.linspace(8, 13, 1001)[:, None])
    np.testing.assert_allclose([low[0], high[0]], [20 - 12.875, 20 - 8.125])
    low, high = interval(np.array(np.nan), np.full(10, np.nan))
    assert np.isnan([low, high]).all()


def rebuilt(case: Case, weights: np.ndarray) -> Case:
    """The case a resample stands for: each sequence as often as it was drawn."""
    sequence = case["sequence_id"]
    own = pd.unique(sequence)
    order = [s for s, n in zip(own, weights.astype(int), strict=True) for _ in range(n)]
    tokens = np.concatenate([np.flatnonzero(sequence == s) for s in order])
    per_token = {k for k, v in case.items() if hasattr(v, "__len__") and len(v) == len(sequence) and k != "layers"}
    out = {k: v[tokens] if k in per_token else v for k, v in case.items()}
    out["sequence_id"] = np.repeat(np.arange(len(order)), [np.sum(sequence == s) for s in order])
    return out


@pytest.mark.parametrize(("name", "chosen"), WITH_INTERVALS)
@pytest.mark.parametrize("seed", [3, 4])
def test_one_pass_gives_what_resampling_the_sequences_gives(name: str, chosen: dict[str, Any], seed: int) -> None:
    """θ of the resample, computed anew from its sequences, against the weighted sums."""
    metric, case = metrics.get(name), random_case(seed)
    # Numbers and names, so that a label that was not drawn is still known.
    codes = np.array([{"a": 0, "b": 1}.get(label, -1) for label in case["label"]])
    case = {**case, "label": codes, "label_names": ("a", "b")}
    function = getattr(metrics, name)
    n = len(pd.unique(case["sequence_id"]))
    weights = Weights(n, resamples=1, seed=7).take(n)[0]
    frame = function(**case, **chosen, ci=True, resamples=1, seed=7)
    # What is frequent enough for a row of npmi is decided once, not in every resample.
    again = function(**rebuilt(case, weights), **{**chosen, **({"min_count": 1} if name == "npmi" else {})})
    keys = [c for c in frame.columns if c in again and c in KEYS]
    merged = frame.merge(again, on=keys, suffixes=("", "_again"), how="left")
    assert len(merged) == len(frame)
    value = merged[metric.value].to_numpy(float)
    resampled = merged[f"{metric.value}_again"].to_numpy(float)
    expected = 2 * value - resampled
    np.testing.assert_allclose(merged["ci_low"].to_numpy(float), expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(merged["ci_high"].to_numpy(float), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "chosen"), WITH_INTERVALS)
def test_intervals_do_not_depend_on_chunks(name: str, chosen: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    case = random_case(6)
    chosen = {**chosen, "ci": True, "resamples": 50}
    whole = getattr(metrics, name)(**case, **chosen)
    monkeypatch.setattr(function_module, "_CHUNK_CELLS", 1)
    monkeypatch.setattr(run_module, "SEQUENCE_CELLS", 1)
    pd.testing.assert_frame_equal(whole, getattr(metrics, name)(**case, **chosen), rtol=1e-9, atol=1e-9)


def test_intervals_cover_about_as_often_as_they_say() -> None:
    """Share of expert 0 over many made-up traces with a known truth of 0.3, sequences of very different kinds."""
    inside = 0
    for trial in range(60):
        rng = np.random.default_rng(trial)
        p = rng.beta(3, 7, size=60)
        ids = (rng.random((60, 10)) > p[:, None]).astype(int).reshape(-1, 1)
        row = metrics.load(ids, np.repeat(np.arange(60), 10), 2, ci=True, resamples=300).iloc[0]
        inside += row.ci_low <= 0.3 <= row.ci_high
    assert 50 <= inside <= 60


def test_labels_get_intervals_of_their_own() -> None:
    case = random_case(8)
    frame = metrics.load(**case, by="label", ci=True, resamples=100)
    assert {"label", "ci_low", "ci_high"} <= set(frame.columns)
    single = frame.groupby(frame["label"].astype(str))["share"].sum()
    assert np.allclose(single, len(case["layers"]))
