"""Maps of experts and of tokens: what is routed alike lies near.

An expert is described by the tokens it takes, a token by the scores (or weights) it gets in one layer; both as square
roots of shares, so that their distance is the Hellinger distance. Two dimensions come from PCA or UMAP (arXiv
1802.03426); in the latter distances are local.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

METHODS = ("umap", "pca")
VOCABULARY = 500  # commonest tokens that describe an expert
FEWEST_CHOSEN = 10  # tokens below which an expert's profile is mostly chance
MOST_TOKENS = 2500  # points of a map of tokens
NEIGHBOURS = 15
SEED = 0


def layout(features: np.ndarray, method: str) -> np.ndarray:
    """[n, d] -> [n, 2]. With fewer points than UMAP can find neighbours for, PCA."""
    if method == "umap" and len(features) > NEIGHBOURS:
        return _umap(features)
    centered = features - features.mean(axis=0)
    left, size, _ = np.linalg.svd(centered, full_matrices=False)
    flat = left[:, :2] * size[:2]
    return np.pad(flat, ((0, 0), (0, 2 - flat.shape[1])))


def _umap(features: np.ndarray) -> np.ndarray:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it announces what a fixed seed costs, and numba its own deprecations
        import umap

        maker = umap.UMAP(n_neighbors=NEIGHBOURS, min_dist=0.1, random_state=SEED, n_jobs=1)
        return np.asarray(maker.fit_transform(features))


def experts(
    trace: Any, run_id: int, sequences: list[int], wanted: list[int] | None = None
) -> tuple[pd.DataFrame, np.ndarray]:
    """layer, expert, n (tokens of the sequences that chose it), and the profiles [n, V] over the commonest tokens.

    `wanted`: layers; all where none are named.
    """
    chunks = list(trace.chunks(run_id, layers=wanted, sequences=sequences))
    chosen = np.concatenate([chunk["experts"] for chunk in chunks])
    codes = _codes(np.concatenate([_named(chunk) for chunk in chunks]))
    layers, num_experts, size = chunks[0]["layers"], int(chosen.max(initial=0)) + 1, int(codes.max(initial=0)) + 1
    counts = np.zeros((len(layers), num_experts, size))
    for i in range(len(layers)):
        slots = chosen[:, i]
        known = (slots >= 0) & (codes >= 0)[:, None]
        np.add.at(counts[i], (slots[known].astype(np.intp), np.broadcast_to(codes[:, None], slots.shape)[known]), 1)
    n = np.stack([np.bincount(chosen[:, i][chosen[:, i] >= 0], minlength=num_experts) for i in range(len(layers))])
    at = np.argwhere((n >= FEWEST_CHOSEN) & (counts.sum(axis=-1) > 0))
    rows = pd.DataFrame({"layer": layers[at[:, 0]], "expert": at[:, 1], "n": n[at[:, 0], at[:, 1]]})
    return rows, _hellinger(counts[at[:, 0], at[:, 1]])


def tokens(trace: Any, run_id: int, sequences: list[int], layer: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Some tokens of the sequences with what is known of them, and their scores [n, E] in the layer.

    Columns: sequence_id, position, token, label (a code, −1 none), expert (of the first rank), entropy, margin,
    logprob, phase. Without logits the weights of the chosen experts stand for the scores.
    """
    columns = ("experts", "weights", "logits", "entropy", "margin")
    chunks = list(trace.chunks(run_id, layers=[layer], columns=columns, sequences=sequences))
    parts = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in (*columns, *_FACTS)}
    routed = np.flatnonzero(parts["experts"][:, 0, 0] >= 0)
    kept = routed[np.linspace(0, len(routed) - 1, min(MOST_TOKENS, len(routed))).astype(int)] if len(routed) else routed
    parts = {name: values[kept] for name, values in parts.items()}
    rows = pd.DataFrame({name: parts[name] for name in _FACTS})
    rows["expert"] = parts["experts"][:, 0, 0]
    rows["entropy"], rows["margin"] = parts["entropy"][:, 0], parts["margin"][:, 0]
    return rows, _scores(parts["logits"][:, 0], parts["experts"][:, 0], parts["weights"][:, 0])


_FACTS = ("sequence_id", "position", "token", "token_id", "label", "logprob", "phase")


def _scores(logits: np.ndarray, chosen: np.ndarray, weights: np.ndarray) -> np.ndarray:
    if not np.isnan(logits).any():
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        return _hellinger(shifted)
    out = np.zeros((len(chosen), max(logits.shape[1], int(chosen.max(initial=0)) + 1)))
    known = chosen >= 0
    rows = np.broadcast_to(np.arange(len(chosen))[:, None], chosen.shape)
    # Where not even weights are known, being chosen is all that can be said.
    out[rows[known], chosen[known]] = np.nan_to_num(weights, nan=1.0)[known]
    return _hellinger(np.abs(out))


def _hellinger(amounts: np.ndarray) -> np.ndarray:
    return np.sqrt(amounts / np.maximum(amounts.sum(axis=1, keepdims=True), 1e-30))


def _named(chunk: dict[str, np.ndarray]) -> np.ndarray:
    """What tells tokens apart: their ids, or their text where there are none."""
    return chunk["token_id"] if (chunk["token_id"] >= 0).any() else chunk["token"]


def _codes(names: np.ndarray) -> np.ndarray:
    """[T] the place of each token among the commonest ones, −1 beyond."""
    codes, entries = pd.factorize(names)
    order = np.argsort(-np.bincount(codes[codes >= 0], minlength=len(entries)), kind="stable")[:VOCABULARY]
    place = np.full(len(entries) + 1, -1)
    place[order] = np.arange(len(order))
    return place[codes]
