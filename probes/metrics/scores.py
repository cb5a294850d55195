"""Scores of the tokens that have routing and logits: one layer at a time, so that little is in memory at once."""

from __future__ import annotations

import numpy as np

from probes.metrics.chunk import Chunk
from probes.scores import UNKNOWN, probabilities


def layer_probabilities(chunk: Chunk, i: int) -> tuple[np.ndarray, np.ndarray]:
    """Which tokens [n] have routing and logits in the i-th layer, and their scores [n, E], which sum to 1.

    None of them where it is not known how the layer makes scores of its logits: softmax might be another rule.
    """
    logits = chunk.arrays.logits
    assert logits is not None
    if chunk.about.scores[i] == UNKNOWN:
        return np.zeros(0, np.intp), np.zeros((0, logits.shape[-1]))
    at = np.flatnonzero(chunk.routed[:, i] & ~np.isnan(logits[:, i]).any(axis=-1))
    return at, probabilities(logits[at, i].astype(np.float64), chunk.about.scores[i])
