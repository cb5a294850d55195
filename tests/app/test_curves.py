"""The curves' values by hand, and intervals that behave as intervals do."""

import numpy as np
import pandas as pd
import pytest

from app.tables.curves import MEASURES, balance_curve, coefficient_of_variation, entropy_curve, gini, max_over_mean
from app.tables.intervals import FEWEST, spread

COUNTS = np.array([[[2.0, 1.0, 1.0]]])


@pytest.mark.parametrize(
    ("measure", "value"), [(coefficient_of_variation, 2**0.5 / 4), (max_over_mean, 1.5), (gini, 1 / 6)]
)
def test_measures_by_hand(measure, value):
    assert measure(COUNTS)[0, 0] == pytest.approx(value)


@pytest.mark.parametrize("measure", MEASURES.values())
def test_measures_leave_out_experts_that_are_not_there(measure):
    ragged = np.array([[[2.0, 1.0, 1.0, np.nan]]])
    assert measure(ragged) == pytest.approx(measure(COUNTS))
    assert np.isnan(measure(np.zeros((1, 1, 3)))).all()


def test_measures_agree_with_the_metric():
    load = pytest.importorskip("probes.metrics.load")
    counts = np.random.default_rng(0).integers(0, 50, (1, 3, 16))
    assert gini(counts.astype(float)) == pytest.approx(load.gini(counts))
    assert coefficient_of_variation(counts.astype(float)) == pytest.approx(load.coefficient_of_variation(counts))


def sampled(sequences, seed=0):
    rng = np.random.default_rng(seed)
    rows = [(layer, e, s, rng.poisson(5 + e)) for layer in (2, 5) for e in range(4) for s in range(sequences)]
    return pd.DataFrame(rows, columns=["layer", "expert", "sequence_id", "count"])


def test_balance_interval_holds_the_value_and_shrinks_with_more_sequences():
    few, many = sampled(20), sampled(400)
    widths = []
    for frame in (few, many):
        load = frame.groupby(["layer", "expert"], as_index=False)["count"].sum()
        curve = balance_curve(load, frame, "cv", frame["sequence_id"].nunique())
        assert list(curve["layer"]) == [2, 5]
        assert ((curve["low"] <= curve["value"]) & (curve["value"] <= curve["high"])).all()
        widths.append((curve["high"] - curve["low"]).mean())
    assert widths[1] < widths[0] / 2


def test_a_sample_stands_for_all_with_a_narrower_interval():
    sums = np.random.default_rng(0).normal(size=(100, 1)) + 5
    mean = lambda total: total / 100  # noqa: E731
    own, wider = spread(mean, sums, 100), spread(mean, sums, 400)
    assert own[0] == pytest.approx(2 * wider[0])


def test_the_interval_covers_about_95_percent():
    rng, hits = np.random.default_rng(1), 0
    for _ in range(200):
        sums = np.stack([rng.gamma(4, 2, (40, 1)), np.ones((40, 1))], axis=1)
        ratio = lambda total: total[:, 0] / total[:, 1]  # noqa: E731
        below, above = spread(ratio, sums, 40)
        value = ratio(sums.sum(axis=0, keepdims=True))[0]
        hits += int((value + below <= 8).all() and (value + above >= 8).all())
    assert 178 <= hits <= 198


def test_too_few_sequences_have_no_interval():
    below, above = spread(lambda total: total, np.ones((FEWEST - 1, 2)), 4)
    assert np.isnan(below).all()
    assert np.isnan(above).all()


def test_resamples_that_say_nothing_are_left_out():
    sums = np.zeros((20, 2))
    sums[0] = [3, 1]
    ratio = lambda t: np.where(t[:, 1:] > 0, t[:, :1] / np.maximum(t[:, 1:], 1), np.nan)  # noqa: E731
    below, above = spread(ratio, sums, 20)
    assert (below[0], above[0]) == pytest.approx((0, 0))
    assert np.isnan(spread(lambda total: np.full((len(total), 1), np.nan), sums, 20)[0]).all()


def test_entropy_curve_by_hand():
    totals = pd.DataFrame(
        {"layer": [1, 2], "num_experts": [4, 4], "sum_entropy": [10 * np.log(4), 0], "n_entropy": [10, 0]}
    )
    each = pd.DataFrame({"layer": [1], "sequence_id": [0], "sum_entropy": [1.0], "n_entropy": [1]})
    curve = entropy_curve(totals, each, 1)
    assert curve["value"].iloc[0] == pytest.approx(1)
    assert np.isnan(curve["value"].iloc[1])
