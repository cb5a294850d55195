"""What chance gives where a token's experts are distinct: pairs under the loads, with nothing else said.

A token that chose expert i has one slot less for expert j, so p_i p_j is too much to expect of a pair. The expectation
here is that of the distribution with the most entropy among those that have each expert's load and each token's number
of experts: a token with k experts takes the set S of k distinct ones with probability proportional to Π_{i∈S} w_i
(conditional Bernoulli, also called conditional Poisson sampling: Chen, Dempster & Liu 1994, Biometrika 81(3)). The
weights w are those that give the loads. Tokens with different numbers of experts share them. With equal loads a pair's
expectation is k(k−1)/(E(E−1)).

>>> expected_pairs(np.array([3, 3, 3, 3]), np.array([0, 0, 6]))[0].tolist()
[0.0, 1.0, 1.0, 1.0]
"""

from __future__ import annotations

import numpy as np

MOST_STEPS = 500
CLOSE = 1e-9  # largest difference between a share that is wanted and one that the weights give
MOST_CELLS = 8_000_000  # numbers held at once


def expected_pairs(chosen: np.ndarray, sizes: np.ndarray, adjacent: bool = False) -> np.ndarray:
    """Tokens expected to choose both, [..., E, E], zero on the diagonal.

    chosen [..., E]: tokens that chose each expert; sizes [..., K + 1]: tokens by their number of experts. adjacent:
    tokens expected to rank the two next to each other, where every order of a token's experts is as likely: 2/k of
    the tokens with k experts. NaN where no token has any, and where no weights give such loads to within a millionth.
    """
    experts, lead = chosen.shape[-1], chosen.shape[:-1]
    flat, by_size = chosen.reshape(-1, experts), sizes.reshape(-1, sizes.shape[-1])
    counted = 2 / np.maximum(np.arange(by_size.shape[1]), 2) if adjacent else np.ones(by_size.shape[1])
    out = np.empty((len(flat), experts, experts))
    step = max(1, MOST_CELLS // (experts**2 * by_size.shape[1]))
    for first in range(0, len(flat), step):
        part = slice(first, first + step)
        out[part] = _pairs(flat[part].astype(np.float64), by_size[part].astype(np.float64), counted)
    return out.reshape(*lead, experts, experts)


def _pairs(chosen: np.ndarray, sizes: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """`expected_pairs` of [B, E] and [B, K + 1]; counted [K + 1]: the part of a token's pairs that counts."""
    sizes = np.concatenate([np.zeros_like(sizes[:, :1]), sizes[:, 1:]], axis=1)
    n = sizes.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        share, mix = chosen / n[:, None], sizes / n[:, None]
    certain, free = share >= 1, (share > 0) & (share < 1)
    weights, off = _weights(np.where(free, share, 0.0), _fewer(mix, certain.sum(axis=1)))
    left = _fewer(mix * counted, certain.sum(axis=1))
    with_certain = np.where(certain, left.sum(axis=1, keepdims=True), _included(weights, left)[0])
    both = _together(weights, left)
    both = np.where(certain[:, :, None], with_certain[:, None, :], both)
    both = np.where(certain[:, None, :], with_certain[:, :, None], both)
    both[:, np.arange(both.shape[1]), np.arange(both.shape[1])] = 0
    both[~(off < 1e-6) | ~(n > 0)] = np.nan
    return both * n[:, None, None]


def _fewer(mix: np.ndarray, certain: np.ndarray) -> np.ndarray:
    """Shares of the tokens by the number of experts that are not the certain ones, [B, K + 1]."""
    wanted = np.arange(mix.shape[1])[None] + certain[:, None]
    inside = wanted < mix.shape[1]
    return np.where(inside, np.take_along_axis(mix, np.minimum(wanted, mix.shape[1] - 1), axis=1), 0.0)


def _weights(share: np.ndarray, mix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights [B, E] under which experts have these shares (0: never), and how far they are off, [B].

    Each step multiplies a weight by the ratio of the odds that are wanted to the odds that it gives.
    """
    odds = np.divide(share, 1 - share, out=np.zeros_like(share), where=share < 1)
    weights, off = odds.copy(), np.full(len(share), np.inf)
    going = np.flatnonzero(np.isfinite(mix).all(axis=1))
    for _ in range(MOST_STEPS):
        has, lacks = _included(weights[going], mix[going])
        off[going] = np.abs(has - share[going]).max(axis=1, initial=0.0)
        more = odds[going] * np.divide(lacks, has, out=np.zeros_like(has), where=has > 0)
        further = off[going] > CLOSE
        going = going[further]
        if not len(going):
            break
        weights[going] = _centred(weights[going] * more[further])
    return weights, off


def _centred(weights: np.ndarray) -> np.ndarray:
    """The same weights, their geometric mean 1: products of a few of them stay far from the ends of the numbers."""
    positive = weights > 0
    logs = np.log(weights, out=np.zeros_like(weights), where=positive)
    mean = logs.sum(axis=1, keepdims=True) / np.maximum(positive.sum(axis=1, keepdims=True), 1)
    return np.where(positive, np.exp(np.clip(logs - mean, -30, 30)), 0.0)


def _included(weights: np.ndarray, mix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How probable it is that a token has each expert, and has it not, [B, E], over tokens of the sizes of `mix`."""
    whole, without = _sums(weights, mix.shape[1])
    part = np.divide(mix, whole, out=np.zeros_like(mix), where=whole > 0)
    has = weights * np.einsum("bk,bek->be", part[:, 1:], without[:, :, :-1])
    return has, np.einsum("bk,bek->be", part, without)


def _together(weights: np.ndarray, mix: np.ndarray) -> np.ndarray:
    """How probable each pair is, [B, E, E]: w_i w_j times the sum over sets of k − 2 others, over all sets of k."""
    batch, experts = weights.shape
    sizes = mix.shape[1]
    if sizes < 3:
        return np.zeros((batch, experts, experts))
    whole = _sums(weights, sizes)[0]
    part = np.divide(mix, whole, out=np.zeros_like(mix), where=whole > 0)
    others = np.repeat(weights[:, None], experts, axis=1)  # row i: all weights but that of i
    others[:, np.arange(experts), np.arange(experts)] = 0
    without = _sums(others.reshape(-1, experts), sizes - 2)[1].reshape(batch, experts, experts, sizes - 2)
    return weights[:, :, None] * others * np.einsum("bk,bijk->bij", part[:, 2:], without)


def _sums(weights: np.ndarray, sizes: int) -> tuple[np.ndarray, np.ndarray]:
    """Elementary symmetric polynomials of orders 0 … sizes − 1: of all weights [B, K], of all but each [B, E, K].

    From both ends, so that only positive numbers are added: dividing one factor out loses all digits where an expert
    is nearly always chosen.
    """
    batch, experts = weights.shape
    left, right = (np.zeros((experts + 1, batch, sizes)) for _ in range(2))
    left[0, :, 0] = right[experts, :, 0] = 1
    for e in range(experts):
        left[e + 1] = _with(left[e], weights[:, e])
        right[experts - 1 - e] = _with(right[experts - e], weights[:, experts - 1 - e])
    without = np.zeros((experts, batch, sizes))
    for order in range(sizes):
        without[:, :, order] = (left[:-1, :, : order + 1] * right[1:, :, order::-1]).sum(axis=-1)
    return left[experts], np.moveaxis(without, 0, 1)


def _with(sums: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The polynomials [B, K] with one weight more."""
    more = sums.copy()
    more[:, 1:] += sums[:, :-1] * weight[:, None]
    return more
