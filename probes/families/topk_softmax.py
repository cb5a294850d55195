"""The k largest logits, then softmax (or sigmoid) over those alone."""

from __future__ import annotations

from typing import Any

from probes.families.base import Family, Parameters, Rule
from probes.families.scoring import biased, finished


def choose(logits: Any, parameters: Parameters) -> tuple[Any, Any]:
    ids = biased(logits, parameters).topk(parameters["top_k"], dim=-1).indices
    chosen = logits.gather(1, ids)
    if parameters.get("weigh", "softmax") == "sigmoid":
        return ids, finished(chosen.float().sigmoid(), parameters)
    weights = chosen.float().softmax(dim=-1)
    return ids, weights / parameters["top_k"] if parameters.get("divided_by_k") else weights


RULE = Rule(
    name="topk_softmax",
    formula="ids = top-k(z); w = softmax(z[ids])",
    choose=choose,
    source="Shazeer et al. 2017, arXiv 1701.06538; gpt-oss, arXiv 2508.10925",
)

FAMILIES = (
    Family("aria", RULE, official_since="5.19"),
    Family(
        "cohere2_moe",
        RULE,
        tiny={"expert_selection_fn": "softmax"},
        notes="sigmoid instead of softmax where `expert_selection_fn` says so",
    ),
    Family("gpt_oss", RULE),
    Family("granitemoe", RULE),
    Family("granitemoe_swa", RULE),
    Family(
        "granitemoehybrid",
        RULE,
        tiny={"mamba_n_heads": 4, "mamba_d_head": 16, "layer_types": ["mamba", "attention", "mamba"]},
    ),
    Family("granitemoeshared", RULE),
    Family(
        "openai_privacy_filter",
        RULE,
        gating={"divided_by_k": True},
        notes="a token classifier; its block multiplies the experts' sum by k again",
    ),
)
