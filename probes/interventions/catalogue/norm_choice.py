"""Norm choice: every expert runs, and those that answer loudest are kept."""

from __future__ import annotations

from typing import Any

from probes.interventions.base import Intervention, Options
from probes.interventions.site import Site


def assign(site: Site, options: Options, ids: Any, weights: Any) -> tuple[Any, Any]:
    import torch

    assert site.run_expert is not None
    assert site.weigh is not None
    every = torch.arange(site.num_experts, device=ids.device).expand(len(ids), -1)
    parts = every.split(ids.shape[1], dim=1)  # as many experts at once as the layer runs anyway
    norms = torch.cat([site.run_expert(site.hidden, part).float().norm(dim=-1) for part in parts], 1)
    chosen = norms.topk(ids.shape[1], dim=-1).indices.to(ids.dtype)
    return chosen, site.weigh(chosen)


INTERVENTION = Intervention(
    name="norm_choice",
    title="Choice by output norm",
    does="runs every expert and keeps the k with the largest output norm; the family's own rule weighs them",
    formula="ids = top-k(‖o_e(x)‖₂ over all experts); w by the family's own rule from z",
    source="Autonomy-of-Experts, arXiv 2501.13074, in a variant that needs no training: there the norm of a first, "
    "low-rank product decides, and the weights are a softmax of the norms",
    shows="the k experts with the largest output norm, in the first layer edited",
    assign=assign,
    needs=("router",),
    notes="Costs E/k times the layer's work. The router's choice is not looked at, so a `ban` before it has no effect.",
)
