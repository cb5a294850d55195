"""What random routing gives, for figures that are not 0 or 1 by chance. Pairs of experts: see `distinct`."""

from __future__ import annotations

from functools import cache

import numpy as np

DRAWS = 2_000


def largest_share(n: int, load: np.ndarray, seed: int = 0) -> float:
    """Mean share of the most frequent of E experts among n choices that follow `load` [E], by seeded simulation.

    More than the largest load where n is small: with 64 equal loads and 20 choices about 0.11, not 1/64.
    """
    total = float(np.sum(load))
    if n < 1 or not total > 0:
        return float("nan")
    drawn = np.random.default_rng(seed).multinomial(n, np.asarray(load, np.float64) / total, DRAWS)
    return float(drawn.max(axis=1).mean() / n)


def shared_choices(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Share of a token's experts that another run chooses too, if neither run knows of the other: [...].

    a, b [..., E]: how probable each expert is for a token in either run, k in sum. Σ a b / Σ a: k/E with equal loads,
    whatever the k experts of a token have to do with each other.
    """
    total = a.sum(axis=-1)
    return np.divide((a * b).sum(axis=-1), total, out=np.full(np.shape(total), np.nan), where=total > 0)


def independent_bits(rows: np.ndarray, columns: np.ndarray, n: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Mutual information in bits that a table of counts shows by chance, with these sums of rows and columns: [...].

    rows [..., A], columns [..., B] sum to n [...], the pairs of tokens with k [...] different experts on either side. A
    finite table is never quite independent: about (A − k)(B − k) / (2 n ln 2) bits where it is well filled, less where
    most cells are empty. Each cell is taken as Poisson around rows · columns / n, times (1 − p)(1 − q) for experts that
    a token has with probability p and q: what is left of the variance, as a token has each expert once or not at all.
    """
    n = np.asarray(n, np.float64)
    safe = np.maximum(n, 1)[..., None]
    row, column, k = rows / safe, columns / safe, np.asarray(k, np.float64)[..., None]
    cells = _surplus(rows[..., :, None] * column[..., None, :])
    free = np.maximum(1 - k * row, 0)[..., :, None] * np.maximum(1 - k * column, 0)[..., None, :]
    return np.where(n > 0, (cells * free).sum(axis=(-2, -1)) / np.maximum(n, 1), np.nan)


def _surplus(mean: np.ndarray) -> np.ndarray:
    """E[x log2 x] − m log2 m for x ~ Poisson(m): read off a table on the logarithm of m."""
    at, value = _table()
    mean = np.asarray(mean, np.float64)
    middle = np.interp(np.log(np.maximum(mean, 1e-300)), at, value)
    small = np.where(mean > 0, -mean * np.log2(np.maximum(mean, 1e-300)), 0.0)
    large = (0.5 + 1 / (12 * np.maximum(mean, 1))) / np.log(2)
    return np.where(mean <= np.exp(at[0]), small, np.where(mean >= np.exp(at[-1]), large, middle))


@cache
def _table() -> tuple[np.ndarray, np.ndarray]:
    at = np.linspace(np.log(1e-6), np.log(60), 2_000)
    mean, x = np.exp(at), np.arange(1, 200)
    log_factorial = np.cumsum(np.log(x))
    probable = np.exp(x * at[:, None] - mean[:, None] - log_factorial)
    return at, (probable * x * np.log2(x)).sum(axis=1) - mean * np.log2(mean)
