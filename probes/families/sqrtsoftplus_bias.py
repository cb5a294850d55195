"""Scores are sqrt(softplus) of the logits (or another function the router names); a bias decides who is chosen."""

from __future__ import annotations

from typing import Any

from probes.families.base import CORRECTION_BIAS, Family, Rule
from probes.families.hash import RULE as HASH
from probes.families.sigmoid_bias import choose

RULE = Rule(
    name="sqrtsoftplus_bias",
    formula="s = sqrt(softplus(z)); ids = top-k(s + bias); w = s[ids] / sum · scaling",
    choose=choose,
    defaults={"score": "sqrtsoftplus", "normalise": True, "normalise_eps": 1e-20},
    source="transformers, deepseek_v4 and inkling2",
    needs=CORRECTION_BIAS,
)


def hash_layers(router: Any) -> Rule | None:
    return HASH if hasattr(router, "tid2eid") else None


FAMILIES = (
    Family(
        "deepseek_v4",
        RULE,
        gating={"float": False},
        tiny={"mlp_layer_types": ["hash_moe", "moe", "moe"]},
        variant=hash_layers,
        notes="in its first layers the token id alone decides who is chosen (rule hash)",
    ),
    Family("inkling2", RULE),
)
