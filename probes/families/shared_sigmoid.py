"""Sigmoid scores choose; chosen and shared experts then share one normalisation of their log-sigmoids."""

from __future__ import annotations

from typing import Any

from probes.families.base import CORRECTION_BIAS, Family, Parameters, Rule
from probes.families.scoring import biased, scores


def choose(logits: Any, parameters: Parameters) -> tuple[Any, Any]:
    """Ids; the weights are those that the chosen would have without shared experts, whose logits are not returned."""
    score = scores(logits, parameters)
    ids = biased(score, parameters).topk(parameters["top_k"], dim=-1).indices
    weights = score.gather(1, ids)
    return ids, weights / weights.sum(dim=-1, keepdim=True)


RULE = Rule(
    name="shared_sigmoid",
    formula="s = sigmoid(z); ids = top-k(s + bias); w = s[ids] / (sum over chosen and shared experts) · scale",
    choose=choose,
    recomputes="ids",
    defaults={"score": "sigmoid"},
    source="transformers, inkling",
    needs=CORRECTION_BIAS,
)

FAMILIES = (
    Family(
        "inkling",
        RULE,
        official_since="5.19",
        limits={"recompute": "weights also depend on the shared experts' logits, which the router does not return"},
    ),
)
