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

ALWAYS = {"normalise": True}
NEVER = {"normalise": False}
HYBRID = {
    "num_hidden_layers": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
INDEXER = {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 8,
    "indexer_budget": 32,
    "indexer_compress_ratio": 4,
}

FAMILIES = (
    Family("flex_olmo", RULE),
    Family("hunyuan_v1_moe", RULE, official_since="5.19", gating=ALWAYS),
    Family(
        "jamba",
        RULE,
        gating=NEVER,
        tiny={
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 1,
            "expert_layer_offset": 0,
            "use_mamba_kernels": False,
        },
    ),
    Family("mellum", RULE),
    Family("minimax", RULE, gating=ALWAYS),
    Family("mixtral", RULE, gating=ALWAYS),
    Family("olmoe", RULE),
    Family("qwen2_moe", RULE),
    Family("qwen3_5_moe", RULE, gating=ALWAYS, tiny=HYBRID),
    Family("qwen3_moe", RULE),
    Family("qwen3_next", RULE, tiny=HYBRID),
    Family(
        "qwen3_omni_moe",
        RULE,
        gating=ALWAYS,
        model="Qwen3OmniMoeThinkerTextModel",
        notes="checked as the thinker's text model",
    ),
    Family("qwen3_vl_moe", RULE, gating=ALWAYS),
    Family("qwen4_exp", RULE, tiny={**HYBRID, **INDEXER}),
)
