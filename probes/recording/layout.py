"""From forward passes to the rows of sequences: which recorded row belongs to which token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

NEVER_FED = "last generated token: never fed to the model"


@dataclass(frozen=True)
class Layout:
    """Where the tokens of a batch lie in the concatenated rows of its forward passes.

    source    [T] int   row in the concatenation, -1 where the token was never fed
    sequence  [T] int   index of the sequence within the batch;  position [T] int;  phase [T] 0 prefill, 1 decode
    identity  bool      the rows are already in order, so that nothing has to be gathered
    unfed     str, or [T] of them: why a token was never fed
    """

    source: np.ndarray
    sequence: np.ndarray
    position: np.ndarray
    phase: np.ndarray
    identity: bool
    unfed: Any = NEVER_FED

    def gather(self, parts: Sequence[np.ndarray], missing: Any) -> np.ndarray:
        """Rows in token order out of one array per forward pass; `missing` where a token was never fed."""
        rows = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if self.identity:
            return rows
        taken = rows[np.maximum(self.source, 0)]
        if (self.source < 0).any():
            taken[self.source < 0] = missing
        return taken


def written(forward: Any) -> np.ndarray:
    """bool [B, S]: tokens of a pass that the model wrote itself."""
    decoded = getattr(forward, "decoded", None)
    return np.full(forward.mask.shape, forward.phase == "decode") if decoded is None else decoded


def lay_out(forwards: Sequence[Any], lengths: Sequence[int], fed: Sequence[int]) -> Layout:
    """Match the rows of `forwards` (mask and position [B, S] each) with `lengths[b]` tokens of every sequence.

    `fed[b]` tokens of a sequence went through the model; rows at positions beyond are padding after its end.
    """
    lengths_, fed_ = np.asarray(lengths), np.asarray(fed)
    starts = np.concatenate([[0], np.cumsum(lengths_)])
    total = int(starts[-1])
    source = np.full(total, -1, dtype=np.int64)
    phase = np.ones(total, dtype=np.uint8)
    offset = 0
    for forward in forwards:
        batch, position = np.nonzero(forward.mask)[0], forward.position[forward.mask]
        flat = np.flatnonzero(forward.mask.reshape(-1)) + offset
        real = (position >= 0) & (position < fed_[batch])
        target = starts[batch[real]] + position[real]
        source[target] = flat[real]
        phase[target] = written(forward)[forward.mask][real]
        offset += forward.mask.size
    sequence = np.repeat(np.arange(len(lengths_)), lengths_)
    identity = offset == total and bool((source == np.arange(total)).all())
    return Layout(source, sequence, np.arange(total) - starts[sequence], phase, identity)
