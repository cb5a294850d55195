"""From router logits to scores: the probabilities, entropy and margin that stand beside every recorded choice."""

from __future__ import annotations

import numpy as np

from probes.errors import ProbeError

SOFTMAX, SIGMOID, SQRTSOFTPLUS = "softmax", "sigmoid", "sqrtsoftplus"
UNKNOWN = "unknown"  # the rule by which a layer makes scores of its logits is not known, so it has none


def probabilities(logits: np.ndarray, scoring: str = SOFTMAX) -> np.ndarray:
    """Scores over all experts that sum to 1: softmax, or the family's own scores divided by their sum.

    logits [..., E] -> float of the same shape; NaN logits give NaN, and so does unknown scoring.
    """
    if scoring == UNKNOWN:
        return np.full(logits.shape, np.nan, np.result_type(logits.dtype, np.float32))
    if scoring == SOFTMAX:
        shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return shifted / shifted.sum(axis=-1, keepdims=True)
    scores = raw_scores(logits, scoring)
    return scores / scores.sum(axis=-1, keepdims=True)


def raw_scores(logits: np.ndarray, scoring: str) -> np.ndarray:
    """Each expert's own score where experts do not compete: sigmoid(z), or sqrt(softplus(z)) of DeepSeek-V4."""
    if scoring == SIGMOID:
        return 0.5 * (1.0 + np.tanh(0.5 * logits))  # the form that never overflows
    if scoring == SQRTSOFTPLUS:
        return np.sqrt(np.logaddexp(0, logits))
    raise ProbeError(f"unknown scoring {scoring!r}: softmax, sigmoid or sqrtsoftplus")


def entropy(p: np.ndarray) -> np.ndarray:
    """-sum p ln p in nats over the last axis, with 0 ln 0 = 0."""
    return -(p * np.log(np.where(p > 0, p, 1))).sum(axis=-1)


def margin(p: np.ndarray, experts: np.ndarray) -> np.ndarray:
    """Lowest score among the chosen minus highest among the rest, [..., E] and [..., k] -> [...].

    Negative where a correction bias or a group limit overruled the scores. NaN where nothing was chosen or nothing
    is left to choose.
    """
    missing = (experts < 0).all(axis=-1)
    ids = np.where(experts < 0, experts.max(axis=-1, keepdims=True), experts).clip(min=0)
    chosen = np.take_along_axis(p, ids, axis=-1).min(axis=-1)
    rest = p.copy()
    np.put_along_axis(rest, ids, -np.inf, axis=-1)
    best = rest.max(axis=-1)
    return np.where(missing | np.isneginf(best), np.nan, chosen - best)


def bf16_to_float32(bits: np.ndarray) -> np.ndarray:
    """Exact float32 values of bfloat16 bit patterns (uint16), of any shape."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
