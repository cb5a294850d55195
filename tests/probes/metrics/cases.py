"""Routing made up for tests: random, uniform and one-hot, as keyword arguments of a metric's function."""

from __future__ import annotations

from typing import Any

import numpy as np

Case = dict[str, Any]
SHARED = ("shared_absmax", "shared_input_absmax")
PER_TOKEN = {
    *("experts", "sequence_id", "weights", "logits", "output_norm", "output_absmax", "token_id", "predicted_id"),
    *("token", "label", "other_experts", "other_logits"),
    *("input_absmax", "similarity", "hidden_absmax", "hidden_absmedian", "router_input"),
    *(*SHARED, "expert_norm"),
}
PER_LAYER = ("input_absmax", "similarity", "hidden_absmax", "hidden_absmedian", "router_input", *SHARED)
PER_EXPERT = ("output_count", "output_mean", "output_m2", "router_weight", "expert_weight")
# What a neutral file of routing cannot hold, so that traces made from one lack it.
NOT_IN_A_FILE = {"expert_norm", *PER_LAYER, *PER_EXPERT}

# Options without which a metric makes no sense, or that make a small case interesting.
OPTIONS: dict[str, dict[str, Any]] = {
    "risk_difference": {"first": "a", "against": "b"},
    "srp": {"segment_length": (1, 3)},
    "sch": {"segment_length": (1, 3)},
    "cache_hit_rate": {"policy": ("lru", "lfu", "fifo", "lifo", "belady")},
    "expert_importance": {
        "criterion": (
            *("frequency", "soft_frequency", "ean", "ean_mean", "reap", "easy_ep", "mone_variance", "mone"),
            "max_activation",
        ),
        "keep": 0.5,
        "alpha": 0.7,
    },
    "batch_load": {"size": 2, "gamma": (0.5, 1.0)},
    "top_p_experts": {"p": (0.3, 0.9)},
    "expert_similarity": {"kind": ("outputs", "router", "weights", "matched")},
    "expert_clusters": {"clusters": 2},
    "super_experts": {"num_hidden_layers": 2},
}


def random_case(seed: int, missing: bool = True) -> Case:
    """A few short sequences over up to three layers, with every array a trace can have."""
    rng = np.random.default_rng(seed)
    experts, layers = int(rng.integers(2, 9)), int(rng.integers(2, 4))
    k = int(rng.integers(1, min(experts, 4)))
    lengths = rng.integers(1, 9, size=rng.integers(3, 6))
    tokens = int(lengths.sum())
    logits = rng.normal(size=(tokens, layers, experts)) * rng.choice([0.5, 3])
    ids = np.argsort(-logits, axis=-1, kind="stable")[:, :, :k]
    chosen = np.take_along_axis(logits, ids, axis=-1)
    weights = np.exp(chosen) / np.exp(chosen).sum(axis=-1, keepdims=True)
    case = {
        "experts": ids,
        "sequence_id": np.repeat(rng.permutation(50)[: len(lengths)], lengths),
        "num_experts": experts,
        "layers": np.arange(layers) * 2 + 1,
        "weights": weights,
        "logits": logits,
        "output_norm": rng.exponential(size=ids.shape),
        "output_absmax": rng.exponential(size=ids.shape) * 30,
        "token_id": rng.integers(0, 6, tokens),
        "predicted_id": rng.integers(0, 6, tokens),
        "label": np.repeat(np.array([["a", "b", None][i % 3] for i in range(len(lengths))], object), lengths),
    }
    case["other_logits"] = logits + rng.normal(size=logits.shape) * 0.7
    case["other_experts"] = np.argsort(-case["other_logits"], axis=-1, kind="stable")[:, :, :k]
    case |= _measured(rng, tokens, layers, experts)
    case["expert_norm"] = rng.exponential(size=logits.shape)
    case["token"] = np.array([f"t{i}" for i in case["token_id"]], object)
    return drop_routing(case, rng.random((tokens, layers)) < 0.1) if missing else case


def _measured(rng: np.random.Generator, tokens: int, layers: int, experts: int, width: int = 3) -> Case:
    """The residual stream, the router's inputs, and moments of the outputs, as the levels for them keep them."""
    median = rng.exponential(size=(tokens, layers))
    return {
        "input_absmax": rng.exponential(size=(tokens, layers)) * 10,
        "similarity": rng.uniform(-0.2, 1.0, (tokens, layers)),
        "hidden_absmax": median * (1 + rng.exponential(size=(tokens, layers))),
        "hidden_absmedian": median,
        "shared_absmax": rng.exponential(size=(tokens, layers)) * 30,
        "shared_input_absmax": rng.exponential(size=(tokens, layers)) * 10,
        "router_input": rng.normal(size=(tokens, layers, width)),
        "output_count": rng.integers(0, 9, (layers, experts)),
        "output_mean": rng.normal(size=(layers, experts, width)),
        "output_m2": rng.exponential(size=(layers, experts, width)),
        "router_weight": rng.normal(size=(layers, experts, width)),
        "expert_weight": rng.normal(size=(layers, experts, 4, width)),
    }


def drop_routing(case: Case, where: np.ndarray) -> Case:
    """No routing at the positions [T, L] where asked: id −1, floats NaN."""
    case = dict(case)
    case["experts"] = np.where(where[:, :, None], -1, case["experts"])
    for name in ("weights", "logits", "output_norm", "output_absmax", "other_logits", "expert_norm"):
        if name in case:
            case[name] = np.where(where[:, :, None], np.nan, case[name])
    for name in PER_LAYER:
        if name in case:
            gone = where.reshape(where.shape + (1,) * (case[name].ndim - 2))
            case[name] = np.where(gone, np.nan, case[name])
    return case


def drop_slots(case: Case, rng: np.random.Generator) -> Case:
    """Some slots lose their expert, in both runs; some tokens lose all of them. The router's k is not the most left."""
    case = dict(case)
    for ids, floats in (("experts", ("weights", "output_norm", "output_absmax")), ("other_experts", ())):
        drop = rng.random(case[ids].shape) < 0.3
        lost = drop.all(axis=2) & (case[ids] >= 0).all(axis=2)
        case[ids] = np.where(drop, -1, case[ids])
        case[ids][lost, 0] = -2
        for name in floats:
            case[name] = np.where(case["experts"] < 0, np.nan, case[name])
    case["top_k"] = int(rng.integers(1, case["experts"].shape[2] + 1))
    return case


def take(case: Case, tokens: np.ndarray) -> Case:
    """The case with these tokens, in this order."""
    return {name: value[tokens] if name in PER_TOKEN else value for name, value in case.items()}


def uniform(k: int = 2, experts: int = 6) -> Case:
    """Every expert chosen equally often within every sequence, all scores equal."""
    each = (np.arange(experts)[:, None] + np.arange(k)[None]) % experts
    return _even(np.concatenate([each, each])[:, None, :], experts, np.zeros((2 * experts, 1, experts)))


def one_hot(k: int = 2, experts: int = 6) -> Case:
    """Every token chooses experts 0..k−1; expert 0 has all of the score."""
    ids = np.broadcast_to(np.arange(k), (2 * experts, 1, k)).copy()
    logits = np.full((2 * experts, 1, experts), -np.inf)
    logits[:, :, 0] = 0
    return _even(ids, experts, logits)


def _even(ids: np.ndarray, experts: int, logits: np.ndarray) -> Case:
    twice = {"experts": np.concatenate([ids, ids], axis=1), "logits": np.concatenate([logits, logits], axis=1)}
    tokens = len(ids)
    return {
        **twice,
        "other_experts": twice["experts"],
        "sequence_id": np.repeat([0, 1], tokens // 2),
        "num_experts": experts,
        "weights": np.full(twice["experts"].shape, 0.5),
        "output_norm": np.ones(twice["experts"].shape),
        "output_absmax": np.ones(twice["experts"].shape),
        "similarity": np.zeros((tokens, 2)),
        "output_count": np.full((2, experts), 2),
        "output_mean": np.ones((2, experts, 3)),
        "output_m2": np.ones((2, experts, 3)),
        "router_input": np.ones((tokens, 2, 3)),
        "token_id": np.arange(tokens) % 3,
        "predicted_id": np.arange(tokens) % 3,
        "label": np.repeat(np.array(["a", "b"], object), tokens // 2),
    }
