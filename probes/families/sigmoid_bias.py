"""Sigmoid scores; a correction bias, and sometimes groups, decide who is chosen, and the scores alone the weights."""

from __future__ import annotations

from typing import Any

from probes.families.base import Family, Parameters, Rule
from probes.families.scoring import biased, finished, limit_to_groups, scores


def choose(logits: Any, parameters: Parameters) -> tuple[Any, Any]:
    score = scores(logits, parameters)
    ids = limit_to_groups(biased(score, parameters), parameters).topk(parameters["top_k"], dim=-1).indices
    return ids, finished(score.gather(1, ids), parameters)


RULE = Rule(
    name="sigmoid_bias",
    formula="s = sigmoid(z); ids = top-k(s + bias, within the best groups); w = s[ids] (normalised) · scaling",
    choose=choose,
    defaults={"score": "sigmoid", "normalise_eps": 1e-20},
    source="DeepSeek-V3, arXiv 2412.19437",
)

FAMILIES = (Family("deepseek_v3", RULE),)
