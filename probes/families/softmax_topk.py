"""Softmax over all experts, then the k largest; some families renormalise what was chosen, some do not."""

from __future__ import annotations

from typing import Any

from probes.families.base import Family, Parameters, Rule
from probes.families.scoring import finished, scores


def choose(logits: Any, parameters: Parameters) -> tuple[Any, Any]:
    weights, ids = scores(logits, parameters).topk(parameters["top_k"], dim=-1)
    return ids, finished(weights, parameters)


RULE = Rule(
    name="softmax_topk",
    formula="p = softmax(z); ids = top-k(p); w = p[ids], divided by their sum where normalised",
    choose=choose,
    defaults={"score": "softmax"},
    source="Shazeer et al. 2017, arXiv 1701.06538; Mixtral, arXiv 2401.04088",
)

FAMILIES = (
    Family("olmoe", RULE, tiny={"num_experts": 8}),
    Family("qwen3_moe", RULE, tiny={"num_experts": 8}),
    Family("mixtral", RULE, gating={"normalise": True}),
)
