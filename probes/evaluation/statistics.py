"""Differences that can be believed: paired over the items, with intervals, tests, and a correction for their number.

Every measure is a ratio of sums over items, so a resample of the items is a weighted sum of what each of them adds.

    interval  percentile bootstrap over items, 2,000 resamples, the same ones for every arm (paired)
    p         two-sided sign-flip test: under the null an item's difference could as well have had the other sign
    p_holm    Holm's correction over all tests of the evaluation: the chance of even one false claim stays below 5 %
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from probes.metrics.bootstrap import Weights

RESAMPLES = 2000
FLIPS = 10_000
ENOUGH = 10
_CELLS = 4_000_000
LEVEL = 0.95


@dataclass(frozen=True)
class Measure:
    """Something measured of every item: its name, unit, and how sums over items become a value.

    of      (record of an item) -> (numerator, denominator), or None where the item does not have it
    then    ratio -> value
    tested  is a difference from the baseline a question? (a distance from the baseline has none)
    """

    name: str
    unit: str
    description: str
    of: Callable[[dict[str, Any]], tuple[float, float] | None]
    then: Callable[[Any], Any] = lambda ratio: ratio
    tested: bool = True


def _per_item(key: str) -> Callable[[dict[str, Any]], tuple[float, float] | None]:
    return lambda record: (float(record[key]), 1.0) if record.get(key) is not None else None


def _per_token(key: str) -> Callable[[dict[str, Any]], tuple[float, float] | None]:
    """What is infinite for an item (None in its record) is so for all: NaN, and no row is made of it."""
    return lambda record: (_number(record[key]), float(record["n"])) if record.get("n") else None


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


MEASURES = (
    Measure("exact_match", "share", "answers that are right", _per_item("right")),
    Measure("choice_accuracy", "share", "items whose right choice is the most probable", _per_item("chosen")),
    Measure("choice_margin", "nats", "ln p of the right choice minus that of the best other", _per_item("margin")),
    Measure("perplexity", "perplexity", "exp of the mean −ln p of a target token", _per_token("nll"), np.exp),
    Measure("kl", "nats per token", "mean KL(baseline ‖ arm) over target tokens", _per_token("kl"), tested=False),
    Measure("length", "tokens", "tokens written before the stop", _per_item("length")),
    Measure("unfinished", "share", "texts that did not end within the allowed tokens", _per_item("unfinished")),
)


@dataclass(frozen=True)
class Sums:
    """Numerators and denominators [n] of one measure under one arm, item by item."""

    num: np.ndarray
    den: np.ndarray

    def value(self, then: Callable[[Any], Any]) -> float:
        return float(then(self.num.sum() / self.den.sum()))

    def drawn(self, weights: np.ndarray, then: Callable[[Any], Any]) -> np.ndarray:
        """[R] the value in every resample; weights [R, n]."""
        return then((weights @ self.num) / (weights @ self.den))


def resamples(n: int, seed: int) -> np.ndarray:
    """[R, n] how often each item is drawn."""
    return Weights(n, RESAMPLES, seed).take(n).astype(np.float64)


def bounds(drawn: np.ndarray) -> tuple[float, float]:
    """The ends of the 95 % percentile interval of drawn values [R]."""
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def sign_flip_p(differences: np.ndarray, seed: int) -> float:
    """Two-sided p of the sum of paired differences [n]; 1 where none differs.

    (1 + how many random sign patterns give a sum at least as far from 0) / (1 + how many were tried): 10,000, and
    100,000 where fewer than ten of these are as far out, so that a correction for many tests leaves something to say.
    Only items that differ matter: with d of them p cannot fall below about 2^(1 − d).
    """
    changed = differences[differences != 0]
    if not len(changed):
        return 1.0
    rng = np.random.default_rng([seed, len(changed)])
    far, flips = _as_far(changed, FLIPS, rng), FLIPS
    if far < ENOUGH:
        far, flips = far + _as_far(changed, 9 * FLIPS, rng), 10 * FLIPS
    return (1 + far) / (1 + flips)


def _as_far(changed: np.ndarray, flips: int, rng: np.random.Generator) -> int:
    """How many of `flips` random sign patterns give a sum at least as far from 0 as the one there is."""
    total, far = changed.sum(), 0
    bound = abs(total) * (1 - 1e-9)
    step = max(1, _CELLS // len(changed))
    for first in range(0, flips, step):
        positive = rng.integers(0, 2, (min(step, flips - first), len(changed)), dtype=np.int8)
        far += int((np.abs(positive @ (2 * changed) - total) >= bound).sum())
    return far


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's adjusted p [m]: step down from the smallest; NaN stays NaN and does not count.

    >>> holm(np.array([0.01, 0.04, 0.03, np.nan])).tolist()
    [0.03, 0.06, 0.06, nan]
    """
    out = np.full(len(p), np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    out[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0) if len(order) else []
    return out


def against(arm: Sums, base: Sums, weights: np.ndarray, then: Callable[[Any], Any]) -> tuple[float, float, float]:
    """(difference, low, high) of arm − base over the same items."""
    low, high = bounds(arm.drawn(weights, then) - base.drawn(weights, then))
    return arm.value(then) - base.value(then), low, high


def against_controls(
    arm: Sums, controls: list[Sums], weights: np.ndarray, then: Callable[[Any], Any], seed: int
) -> tuple[float, float, float]:
    """(difference, low, high) of arm − mean of the controls; items and controls are both drawn anew."""
    rng = np.random.default_rng([seed, len(controls)])
    share = rng.multinomial(len(controls), np.full(len(controls), 1 / len(controls)), len(weights)) / len(controls)
    drawn = np.stack([control.drawn(weights, then) for control in controls], axis=1)
    low, high = bounds(arm.drawn(weights, then) - (drawn * share).sum(axis=1))
    return arm.value(then) - float(np.mean([control.value(then) for control in controls])), low, high
