"""Bootstrap resamples of counts by token, for which keeping every resample of every count would be far too much.

The choices are kept as ids while the trace streams by. Each token is then resampled by itself: what it counts in all
resamples at once is one matrix product over the sequences it occurs in. Only the marginal sums are kept for all.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from probes.errors import UsageError
from probes.metrics.bootstrap import Weights
from probes.metrics.chunk import Chunk

MOST_BYTES = 1 << 30
_BLOCK = 256  # sequences in one product: the same sums however many there are


class TokenDraws:
    """Fed with the chunks of a pass whose groups are tokens; then asked token by token."""

    def __init__(self, n_sequences: int, resamples: int, seed: int, num_experts: int, first_only: bool = False) -> None:
        self.weights = Weights(n_sequences, resamples, seed)
        self.num_experts, self.first_only = num_experts, first_only
        self._drawn: list[np.ndarray] = []
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._sequences, self._bytes = 0, 0

    def add(self, chunk: Chunk) -> None:
        """Keeps the ids of a chunk's tokens, the sequence of each, and its sequences' weights."""
        lengths = np.diff(chunk.starts)
        ids = chunk.experts[:, :, :1] if self.first_only else chunk.experts
        kept = np.flatnonzero(chunk.group >= 0)
        sequence = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)[kept] + self._sequences
        self._parts.append((chunk.group[kept].astype(np.int32), sequence, np.ascontiguousarray(ids[kept])))
        self._drawn.append(self.weights.take(len(lengths)))
        self._sequences += len(lengths)
        self._bytes += sum(part.nbytes for part in self._parts[-1]) + self._drawn[-1].nbytes
        if self._bytes > MOST_BYTES:
            raise UsageError("intervals of tokens keep every choice in memory, and these are too many: choose --layers")

    def finish(self) -> None:
        """Brings the tokens into order; to be called once, before asking."""
        group, self._sequence, self._ids = (np.concatenate(parts) for parts in zip(*self._parts, strict=True))
        self._parts = []
        order = np.argsort(group, kind="stable")
        self._sequence, self._ids = self._sequence[order], self._ids[order]
        self._bounds = np.searchsorted(group[order], np.arange(group.max(initial=-1) + 2))
        self._weights = np.concatenate(self._drawn, axis=1)
        self._drawn = []

    def marginals(self) -> tuple[np.ndarray, np.ndarray]:
        """chosen [R, L, E] and positions [R, L], over all tokens."""
        return self._summed(slice(0, len(self._sequence)))

    def each(self, tokens: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """chosen [R, L, E] and positions [R, L] of each of these tokens (numbers of the pass's groups)."""
        for token in tokens:
            yield self._summed(slice(int(self._bounds[token]), int(self._bounds[token + 1])))

    def _summed(self, part: slice) -> tuple[np.ndarray, np.ndarray]:
        layers, experts = self._ids.shape[1], self.num_experts
        resamples = len(self._weights)
        chosen, positions = np.zeros((resamples, layers * experts)), np.zeros((resamples, layers))
        sequences, own = np.unique(self._sequence[part], return_inverse=True)
        ids = self._ids[part]
        order = np.argsort(own, kind="stable")
        for first in range(0, len(sequences), _BLOCK):
            a, b = np.searchsorted(own[order], [first, first + _BLOCK])
            weights = self._weights[:, sequences[first : first + _BLOCK]].astype(np.float64)
            counts, seen = self._counts(ids[order[a:b]], own[order[a:b]] - first, weights.shape[1])
            chosen += weights @ counts.reshape(len(counts), -1)
            positions += weights @ seen
        return chosen.reshape(resamples, layers, experts), positions

    def _counts(self, ids: np.ndarray, row: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
        from probes.metrics.activations import count_ids

        counts = count_ids(ids, row.astype(np.int64), rows, self.num_experts).astype(np.float64)
        seen = np.stack([np.bincount(row[ids[:, i, 0] >= 0], minlength=rows) for i in range(ids.shape[1])], axis=1)
        return counts, seen.astype(np.float64)
