"""Is a difference between labels more than noise? Labels are dealt out anew among the sequences, many times.

Tokens of one sequence resemble each other, so the sequence is the unit that is dealt, never the token. The question,
for every label, layer and expert: is the share of the label's tokens that choose the expert the same as elsewhere? It
is the risk difference, and nPMI is above 0 exactly where it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from probes.metrics.activations import count_ids
from probes.metrics.chunk import sequence_starts
from probes.metrics.tables import ratio
from probes.routing import RoutingArrays

if TYPE_CHECKING:
    import pandas as pd

PERMUTATIONS = 1000
FEWEST_PERMUTATIONS = 200
_CELLS = 60_000_000  # numbers kept: permutations × labels × layers × experts
_BLOCK = 256  # sequences per product
ENOUGH = 10  # permutations at least as extreme that settle a p-value by themselves


class Permuted:
    """Counts by label under the true labels (row 0) and under permuted ones, summed while a trace streams by.

    labels [S]: a code 0..G−1 for each sequence in the order they come, −1 for those that do not take part.
    """

    def __init__(
        self, labels: np.ndarray, n_labels: int, shape: tuple[int, int], permutations: int = PERMUTATIONS, seed: int = 0
    ) -> None:
        self.n_labels, self.shape, self._next = n_labels, shape, 0
        width = n_labels * shape[0] * (shape[1] + 1)
        self.permutations = min(permutations, max(FEWEST_PERMUTATIONS, _CELLS // width))
        self.labels = _dealt(np.asarray(labels), self.permutations, seed)
        self.chosen = np.zeros((self.permutations + 1, n_labels, shape[0] * shape[1]))
        self.tokens = np.zeros((self.permutations + 1, n_labels, shape[0]))

    def feed(self, arrays: RoutingArrays) -> None:
        """Counts a chunk of whole sequences."""
        starts = sequence_starts(arrays.sequence_id)
        n = len(starts) - 1
        sequence = np.repeat(np.arange(n), np.diff(starts))
        chosen = count_ids(arrays.experts, sequence, n, arrays.num_experts).reshape(n, -1)
        tokens = np.add.reduceat(arrays.experts[:, :, 0] >= 0, starts[:-1], axis=0, dtype=np.int64)
        for first in range(0, n, _BLOCK):
            part = slice(first, min(first + _BLOCK, n))
            self._add(chosen[part], tokens[part])

    def _add(self, chosen: np.ndarray, tokens: np.ndarray) -> None:
        labels = self.labels[:, self._next : self._next + len(chosen)]
        self._next += len(chosen)
        # Sums of one block stay far below 2^24, where float32 is exact.
        counts = np.concatenate([chosen, tokens], axis=1).astype(np.float32)
        for g in range(self.n_labels):
            sums = (labels == g).astype(np.float32) @ counts
            self.chosen[:, g] += sums[:, : chosen.shape[1]]
            self.tokens[:, g] += sums[:, chosen.shape[1] :]

    def differences(self) -> np.ndarray:
        """[1 + permutations, G, L, E]: share of the label's tokens that choose the expert − the same elsewhere."""
        chosen = self.chosen.reshape(*self.chosen.shape[:2], *self.shape)
        tokens = self.tokens[..., None]
        elsewhere = chosen[:1].sum(axis=1, keepdims=True) - chosen, tokens[:1].sum(axis=1, keepdims=True) - tokens
        return ratio(chosen, tokens) - ratio(*elsewhere)


def _dealt(labels: np.ndarray, permutations: int, seed: int) -> np.ndarray:
    """[1 + permutations, S]: the labels, then shuffled among the sequences that have one."""
    out = np.tile(labels.astype(np.int16), (permutations + 1, 1))
    with_one = np.flatnonzero(labels >= 0)
    rng = np.random.default_rng(seed)
    out[1:, with_one] = rng.permuted(out[1:, with_one], axis=1)
    return out


def p_values(values: np.ndarray) -> np.ndarray:
    """Two-sided p [...] of values[0] against values[1:], [1 + R, ...]; NaN where permuting changes nothing.

    (1 + how many permutations are at least as far from 0) / (1 + R). Where fewer than 10 are, that fraction is
    too coarse for thousands of tests: it is then taken over the permutations of all cells together, each in units of
    its own standard deviation (after Knijnenburg et al. 2009, who fit the tail instead).
    """
    drawn = values[1:]
    spread = drawn.std(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.abs(values) / np.where(spread > 1e-12, spread, np.nan)
    far, known = (z[1:] >= z[0] - 1e-9).sum(axis=0), ~np.isnan(z[0])
    p = np.where(known, (1 + far) / (1 + len(drawn)), np.nan)
    coarse = known & (far < ENOUGH)
    if coarse.any():
        tail = np.sort(z[1:][z[1:] >= z[0][coarse].min()])
        beyond = len(tail) - np.searchsorted(tail, z[0][coarse])
        p[coarse] = np.minimum(p[coarse], (1 + beyond) / (1 + len(drawn) * known.sum()))
    return p


def false_discovery(p: np.ndarray) -> np.ndarray:
    """Benjamini–Hochberg q [...]: calling all with q ≤ 5 % a difference is wrong for 5 % of them; NaN stays NaN.

    >>> false_discovery(np.array([0.01, 0.04, 0.03, np.nan])).round(6).tolist()
    [0.03, 0.04, 0.04, nan]
    """
    flat = np.asarray(p, np.float64).ravel()
    known = np.flatnonzero(~np.isnan(flat))
    order = known[np.argsort(-flat[known], kind="stable")]
    rank = np.arange(len(order), 0, -1)
    q = np.full(flat.shape, np.nan)
    q[order] = np.minimum.accumulate(np.minimum(flat[order] * len(order) / rank, 1.0)) if len(order) else []
    return q.reshape(np.shape(p))


def with_noise(frame: pd.DataFrame, test: Permuted, names: Sequence[str], layers: np.ndarray) -> pd.DataFrame:
    """The table with `p` and `q` of each row's difference, tested over all rows' cells together.

    A table with a column target compares each of `names` with the rest; one without compares the first with the second.
    """
    each = "target" in frame
    p = p_values(test.differences() if each else test.differences()[:, :1])
    q = false_discovery(p)
    group = np.array([list(names).index(name) for name in frame["target"]], np.intp) if each else 0
    cell = (group, np.searchsorted(layers, frame["layer"]), frame["expert"].to_numpy(np.intp))
    return frame.assign(p=p[cell], q=q[cell])
