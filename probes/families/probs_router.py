"""Gemma 4: the router returns probabilities; its logits are what its projection returned."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from probes.families.adapted import bare
from probes.families.base import Family, Parameters, Rule
from probes.families.layout import Layout, Parts
from probes.families.scoring import finished, scores, vector


def choose(logits: Any, parameters: Parameters) -> tuple[Any, Any]:
    weights, ids = scores(logits, parameters).topk(parameters["top_k"], dim=-1)
    weights, scale = finished(weights, parameters), vector(parameters, "expert_scale", logits)
    return ids, weights if scale is None else weights * scale[ids]


class ProbsRouter(Layout):
    """Router and experts are children of the decoder layer itself, beside a dense MLP."""

    name = "probs_router"

    def find(self, module: Any) -> Iterator[Parts]:
        return (p for p in super().find(module) if _is_ours(bare(p.router)))

    def logits_source(self, parts: Parts) -> Any:
        return bare(parts.router).proj


def _is_ours(router: Any) -> bool:
    return hasattr(router, "proj") and hasattr(router, "per_expert_scale")


RULE = Rule(
    name="probs_router",
    formula="p = softmax(z); ids = top-k(p); w = p[ids] / sum · scale[ids]",
    choose=choose,
    defaults={"score": "softmax", "normalise": True},
    source="transformers, gemma4",
)

LAYOUT = ProbsRouter()
MOE = {"enable_moe_block": True, "hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0, "global_head_dim": 8}

FAMILIES = (
    Family(
        "diffusion_gemma",
        RULE,
        tiny=MOE,
        layout=LAYOUT,
        model="DiffusionGemmaEncoderTextModel",
        notes="checked as its text encoder",
    ),
    Family(
        "gemma4",
        RULE,
        official_since="5.19",
        tiny=MOE,
        layout=LAYOUT,
        notes="MoE runs beside a dense MLP, and both are added",
    ),
)
