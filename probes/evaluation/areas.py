"""The area under a curve of several arms, such as what a model loses as more and more of it is pruned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from probes.evaluation.evaluate import Evaluation
from probes.evaluation.statistics import bounds, resamples


@dataclass(frozen=True)
class Area:
    """Mean height of a curve over its range, with the 95 % interval over items."""

    value: float
    low: float
    high: float
    drawn: np.ndarray

    def minus(self, other: Area) -> tuple[float, float, float]:
        """(difference, low, high); the items were drawn alike for both."""
        low, high = bounds(self.drawn - other.drawn)
        return self.value - other.value, low, high


def loss_curve(found: Evaluation, arms: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """−ln p per target token above the baseline's: (value [A], resamples [R, A]) of the arms, over all tasks."""
    records = {name: [r for r in found.items if r["arm"] == name] for name in ("baseline", *arms)}
    tokens = np.array([r["n"] for r in records["baseline"]], float)
    base = np.array([r["nll"] for r in records["baseline"]], float)
    added = np.array([[r["nll"] for r in records[name]] for name in arms], float) - base
    weights = resamples(len(tokens), int(found.settings["seed"]))
    return added.sum(axis=1) / tokens.sum(), (weights @ added.T) / (weights @ tokens)[:, None]


def area(values: np.ndarray, drawn: np.ndarray, x: Sequence[float]) -> Area:
    """Of a curve through values [A] at x, with its resamples [R, A]: the trapezoid rule over the range of x."""
    width = abs(x[-1] - x[0])
    order = np.argsort(x)
    x_up = np.asarray(x, float)[order]
    whole, each = (np.trapezoid(v[..., order], x_up, axis=-1) / width for v in (values, drawn))
    return Area(float(whole), *bounds(each), each)


def mean_of(areas: Sequence[Area], seed: int = 0) -> Area:
    """The mean of several areas; which of them are taken is drawn anew in every resample."""
    drawn = np.stack([one.drawn for one in areas], axis=1)
    rng = np.random.default_rng([seed, len(areas)])
    share = rng.multinomial(len(areas), np.full(len(areas), 1 / len(areas)), len(drawn)) / len(areas)
    mean = (drawn * share).sum(axis=1)
    return Area(float(np.mean([one.value for one in areas])), *bounds(mean), mean)
