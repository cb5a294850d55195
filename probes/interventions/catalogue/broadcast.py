"""Broadcast: tokens whose router is uncertain go to every expert."""

from __future__ import annotations

import math
from typing import Any

from probes.interventions.base import Intervention, Option, Options, finite
from probes.interventions.site import Site


def assign(site: Site, options: Options, ids: Any, weights: Any) -> tuple[Any, Any]:
    import torch

    p = site.scores()
    entropy = torch.special.entr(p).sum(-1)
    uncertain = entropy >= options["threshold"] * math.log(site.num_experts)
    if not uncertain.any():
        return ids, weights
    everyone = torch.arange(site.num_experts, device=ids.device).expand(len(ids), -1)
    own = torch.zeros_like(p).scatter_add(1, ids.long(), weights.float())
    return everyone, torch.where(uncertain[:, None], p, own).to(weights.dtype)


INTERVENTION = Intervention(
    name="broadcast",
    title="Broadcast uncertain tokens",
    does="sends tokens whose routing entropy reaches a threshold to every expert, weighted by the probabilities",
    formula="H = −Σ p ln p; where H ≥ h · ln E: all experts with w = p",
    source="GW-MoE, arXiv 2406.12375 (H* = 1.6 of ln 8), which broadcasts while it fine-tunes; here it is tried on the "
    "model as it is",
    shows="all experts, with their probabilities as weights, for tokens with entropy at or above the threshold; "
    "the baseline's choice for the others, in the first layer edited",
    options=(Option("threshold", finite, 0.77, "h, entropy as a fraction of ln E", low=0.0, high=2.0),),
    assign=assign,
    width=lambda options, top_k, num_experts: num_experts,
    drops=True,
    needs=("logits", "scores"),
    neutral={"threshold": 2.0},
    example={"threshold": 0.1},
    notes="In families that normalise the chosen weights, p sums to 1 as they do; elsewhere a broadcast token gets "
    "more weight than k experts have. A family's scaling of its weights is left out.",
)
