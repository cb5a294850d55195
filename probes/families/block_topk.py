"""DBRX: the router returns logits only; the block around it takes the k largest probabilities."""

from __future__ import annotations

from typing import Any

from probes.families.base import Family, Parameters, Rule


def choose(logits: Any, parameters: Parameters) -> tuple[Any, Any]:
    weights, ids = logits.softmax(dim=-1).topk(parameters["top_k"], dim=-1)
    power = parameters.get("norm_p")
    return ids, weights if power is None else weights / weights.norm(p=power, dim=-1, keepdim=True)


RULE = Rule(
    name="block_topk",
    formula="p = softmax(z); ids = top-k(p); w = p[ids] / ‖p[ids]‖ₚ",
    choose=choose,
    source="DBRX, transformers",
)

FAMILIES = (
    Family(
        "dbrx",
        RULE,
        tiny={
            "d_model": 32,
            "n_heads": 4,
            "n_layers": 2,
            "max_seq_len": 64,
            "attn_config": {"clip_qkv": 8.0, "kv_n_heads": 4, "rope_theta": 10000.0},
            "ffn_config": {"ffn_hidden_size": 16, "moe_num_experts": 8, "moe_top_k": 2},
        },
    ),
)
