"""Intervals over sequences for the curves of the pages (95 %, basic bootstrap, 1,000 resamples, fixed seed).

Sequences, not tokens, are drawn: the tokens of a sequence resemble each other, and counting them as independent would
make every curve look more certain than it is.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

RESAMPLES = 1000
SEED = 0
FEWEST = 5  # below this many sequences resampling says little; no interval is drawn


def spread(
    statistic: Callable[[np.ndarray], np.ndarray], sums: np.ndarray, n_population: int
) -> tuple[np.ndarray, np.ndarray]:
    """How far below and above its value the interval of `statistic` reaches: two [L], to be added to the value.

    `sums` is [S, ...], what each of S sequences adds; `statistic` takes [R, ...] sums to [R, L] values. Where S of
    `n_population` sequences were read, theirs is the larger spread of S, so it shrinks by sqrt(S / n_population).
    """
    n = len(sums)
    center = statistic(sums.sum(axis=0, keepdims=True))[0]
    if n < FEWEST:
        return np.full_like(center, np.nan), np.full_like(center, np.nan)
    drawn = np.random.default_rng(SEED).multinomial(n, np.full(n, 1 / n), RESAMPLES).astype(np.float64)
    resampled = statistic((drawn @ sums.reshape(n, -1)).reshape(RESAMPLES, *sums.shape[1:]))
    low, high = _quantiles(resampled)
    shrink = np.sqrt(n / max(n, n_population))
    return shrink * (center - high), shrink * (center - low)


def _quantiles(resampled: np.ndarray) -> np.ndarray:
    """[2, L] the ends of the middle 95 %; a resample that says nothing (a rare token was not drawn) is left out."""
    unknown = np.isnan(resampled)
    if not unknown.any():
        return np.quantile(resampled, [0.025, 0.975], axis=0)
    nothing = unknown.all(axis=0)
    found = np.nanquantile(np.where(nothing, 0.0, resampled), [0.025, 0.975], axis=0)
    return np.where(nothing, np.nan, found)
