"""Intervals that cover, tests that keep their level, and a correction that is Holm's."""

import numpy as np
import pytest

from probes.evaluation.statistics import Sums, against, against_controls, bounds, holm, resamples, sign_flip_p


def mean(ratio):
    return ratio


def sums(values):
    return Sums(np.asarray(values, float), np.ones(len(values)))


def test_intervals_of_a_mean_cover_it_about_as_often_as_said():
    rng = np.random.default_rng(0)
    weights = resamples(60, 0)
    inside = 0
    for _ in range(200):
        low, high = bounds(sums(rng.normal(size=60)).drawn(weights, mean))
        inside += low <= 0 <= high
    assert 0.90 <= inside / 200 <= 0.99


def test_ratios_are_ratios_of_sums():
    found = Sums(np.array([2.0, 9.0]), np.array([1.0, 3.0]))
    assert found.value(mean) == pytest.approx(11 / 4)


def test_pairing_removes_what_both_share():
    rng = np.random.default_rng(1)
    base = rng.normal(scale=10, size=80)
    difference, low, high = against(sums(base + 1), sums(base), resamples(80, 0), mean)
    assert (difference, low, high) == pytest.approx((1, 1, 1))


def test_sign_flips_keep_their_level_and_see_effects():
    rng = np.random.default_rng(2)
    null = [sign_flip_p(rng.normal(size=25), 0) for _ in range(200)]
    assert np.mean(np.array(null) <= 0.05) <= 0.09
    assert sign_flip_p(rng.normal(size=25) + 1.5, 0) < 0.001
    assert sign_flip_p(np.zeros(5), 0) == 1
    # Three items cannot prove anything: of eight sign patterns two are as far out.
    assert sign_flip_p(np.ones(3), 0) == pytest.approx(0.25, abs=0.02)


def test_holm_by_hand():
    assert holm(np.array([0.01, 0.02, 0.03, 0.5])).tolist() == pytest.approx([0.04, 0.06, 0.06, 0.5])
    assert holm(np.array([0.9, 0.8])).tolist() == [1.0, 1.0]
    assert np.isnan(holm(np.array([np.nan, 0.01]))[0])
    assert holm(np.array([np.nan, 0.01]))[1] == 0.01


def test_the_spread_of_the_controls_widens_the_interval():
    weights = resamples(40, 0)
    arm = sums(np.zeros(40))
    alike = [sums(np.full(40, 1.0)) for _ in range(5)]
    apart = [sums(np.full(40, v)) for v in (0, 0.5, 1, 1.5, 2)]
    narrow, wide = (against_controls(arm, some, weights, mean, 0) for some in (alike, apart))
    assert narrow == pytest.approx((-1, -1, -1))
    assert wide[0] == pytest.approx(-1)
    assert wide[1] < -1.3
    assert wide[2] > -0.7
