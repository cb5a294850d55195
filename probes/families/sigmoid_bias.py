"""Sigmoid scores; a correction bias, and sometimes groups, decide who is chosen, and the scores alone the weights."""

from __future__ import annotations

from typing import Any

from probes.families.base import CORRECTION_BIAS, Family, Parameters, Rule
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
    needs=CORRECTION_BIAS,
)

ALWAYS = {"normalise": True}
IN_BLOCK = "the block multiplies the experts' sum by a scaling factor that is no part of the weights"
LINEAR = {
    "linear_head_dim": 8,
    "linear_num_heads": 4,
    "layer_types": ["linear_attention", "full_attention", "full_attention"],
}
SPARSE = {"mlp_layer_types": ["dense", "sparse", "sparse"]}
DSA = {"index_topk": 64, "index_head_dim": 8, "index_n_heads": 2}

FAMILIES = (
    Family("afmoe", RULE, gating=ALWAYS),
    Family("axk1", RULE, official_since="5.19"),
    Family("axk2", RULE, official_since="5.19", gating={"struck_out": 0.0}),
    Family("bailing_hybrid", RULE, tiny=LINEAR),
    Family("beam", RULE, tiny=SPARSE, notes=IN_BLOCK),
    Family("deepseek_v3", RULE, official_since="5.19"),
    Family("deepseek_v32", RULE, official_since="5.19"),
    Family("dots1", RULE, official_since="5.19", tiny={"n_shared_experts": 1}),
    Family("dots3_note", RULE),
    Family("exaone_moe", RULE, official_since="5.19"),
    Family("flint", RULE, unbiased=True),
    Family("glm4_moe", RULE, official_since="5.19"),
    Family("glm4_moe_lite", RULE, official_since="5.19"),
    Family(
        "glm4v_moe",
        RULE,
        tiny={
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [1, 1, 0],
                "partial_rotary_factor": 0.5,
            }
        },
    ),
    Family(
        "glm5_next",
        RULE,
        tiny={**LINEAR, **DSA, "qk_rope_head_dim": 0, "head_dim": 0, "mlp_layer_types": ["dense", "sparse", "sparse"]},
    ),
    Family("glm_moe_dsa", RULE, official_since="5.19"),
    Family("hy_v3", RULE, gating=ALWAYS),
    Family("hy_v4", RULE, official_since="5.19"),
    Family("kimi_linear", RULE, official_since="5.19", tiny=LINEAR),
    Family("laguna", RULE, gating=ALWAYS, notes=f"logits are soft-capped before they are returned; {IN_BLOCK}"),
    Family(
        "lfm2_moe",
        RULE,
        official_since="5.19",
        gating={"normalise_eps": 1e-6, "float": False},
        tiny={"num_dense_layers": 1, "layer_types": ["conv", "full_attention", "full_attention"]},
    ),
    Family(
        "mimo_v2_flash",
        RULE,
        official_since="5.19",
        tiny={"sliding_window": 32, "head_dim": 24, "v_head_dim": 16, "num_key_value_heads": 2},
    ),
    Family("minimax_m2", RULE, gating=ALWAYS),
    Family("minimax_m3_vl", RULE, gating=ALWAYS, notes=IN_BLOCK),
    Family(
        "muse_spark", RULE, gating=ALWAYS, notes="experts work in a latent space: their output norms are in its units"
    ),
    Family(
        "nemotron_h",
        RULE,
        official_since="5.19",
        notes="with `moe_latent_size` experts work in a latent space: their output norms are in its units",
    ),
    Family("solar_open", RULE, official_since="5.19"),
    Family(
        "step3p7",
        RULE,
        official_since="5.19",
        gating=ALWAYS,
        tiny={**SPARSE, "sliding_window": 32, "layer_types": ["full_attention"] * 3},
        config="step3p5",
        model="Step3p7TextModel",
        notes=IN_BLOCK,
    ),
)
