"""Softmax over all experts, choice limited to the best groups of experts (DeepSeek-V2's device-limited routing)."""

from __future__ import annotations

from typing import Any

from probes.families.base import Family, Parameters, Rule
from probes.families.scoring import finished, limit_to_groups, scores


def choose(logits: Any, parameters: Parameters) -> tuple[Any, Any]:
    score = scores(logits, parameters)
    limited = score if parameters.get("method") == "greedy" else limit_to_groups(score, parameters)
    ids = limited.topk(parameters["top_k"], dim=-1).indices
    return ids, finished(score.gather(1, ids), parameters)


RULE = Rule(
    name="softmax_groups",
    formula="p = softmax(z); ids = top-k(p within the best groups); w = p[ids] (normalised) · scaling",
    choose=choose,
    defaults={"score": "softmax", "struck_out": 0.0, "normalise_eps": 1e-20},
    source="DeepSeek-V2, arXiv 2405.04434",
)

V2 = {"group_score": "max", "normalise": False}
LIMITED = {"topk_method": "group_limited_greedy", "mlp_layer_types": ["dense", "sparse", "sparse"]}

FAMILIES = (
    Family(
        "deepseek_ocr2",
        RULE,
        official_since="5.19",
        gating=V2,
        tiny=LIMITED,
        model="DeepseekOcr2TextModel",
        notes="checked as its text model",
    ),
    Family("deepseek_v2", RULE, official_since="5.19", gating=V2, tiny=LIMITED),
    Family("mistral4", RULE, official_since="5.19", gating={"float": False}, tiny={"head_dim": 16}),
    Family("mistral_large4", RULE, gating={"normalise": True}, notes="checked as its text model"),
    Family(
        "unlimited_ocr", RULE, gating=V2, tiny=LIMITED, model="UnlimitedOcrTextModel", notes="checked as its text model"
    ),
)
