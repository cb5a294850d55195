"""From router logits to scores: softmax, or sigmoid and the like normalised to sum 1."""

from __future__ import annotations

import numpy as np

from probes.metrics.chunk import Chunk


def raw_scores(logits: np.ndarray, rule: str) -> np.ndarray:
    """[..., E] float64 scores by the router's own rule; only a softmax's sum to 1. NaN rows stay NaN."""
    z = np.asarray(logits, np.float64)
    if rule == "sigmoid":
        return 0.5 * (1 + np.tanh(0.5 * z))
    if rule == "sqrtsoftplus":
        return np.sqrt(np.logaddexp(0, z))
    z = np.exp(z - z.max(axis=-1, keepdims=True))
    z /= z.sum(axis=-1, keepdims=True)
    return z


def normalised(scores: np.ndarray) -> np.ndarray:
    """Scores over their sum."""
    return scores / scores.sum(axis=-1, keepdims=True)


def layer_probabilities(chunk: Chunk, i: int) -> tuple[np.ndarray, np.ndarray]:
    """Which tokens [n] have routing and logits in the i-th layer, and their scores [n, E], which sum to 1."""
    logits = chunk.arrays.logits
    assert logits is not None
    at = np.flatnonzero(chunk.routed[:, i] & ~np.isnan(logits[:, i]).any(axis=-1))
    scores = raw_scores(logits[at, i], chunk.about.scores[i])
    return at, scores if chunk.about.scores[i] == "softmax" else normalised(scores)


def probabilities(chunk: Chunk) -> np.ndarray:
    """[T, L, E] float64 scores that sum to 1; NaN where there is no routing or the logits were not kept."""
    logits = chunk.arrays.logits
    assert logits is not None
    out = np.empty(logits.shape)
    for i, rule in enumerate(chunk.about.scores):
        scores = raw_scores(logits[:, i], rule)
        out[:, i] = scores if rule == "softmax" else normalised(scores)
    out[~chunk.routed] = np.nan
    return out
