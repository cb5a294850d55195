"""Top-p: as many experts as it takes to be sure enough."""

from __future__ import annotations

from typing import Any

from probes.interventions.base import Intervention, Option, Options, finite
from probes.interventions.site import Site


def assign(site: Site, options: Options, ids: Any, weights: Any) -> tuple[Any, Any]:
    import torch

    best = site.scores().sort(dim=-1, descending=True, stable=True)
    needed = (best.values.cumsum(-1) <= options["p"]).sum(-1).clamp(max=site.num_experts - 1) + 1
    slots = int(needed.max()) if len(needed) else 1
    rank = torch.arange(site.num_experts, device=ids.device)
    kept = best.values.masked_fill(rank >= needed[:, None], 0.0)
    return best.indices[:, :slots], kept[:, :slots]


INTERVENTION = Intervention(
    name="top_p",
    title="Top-p experts",
    does="gives each token the smallest set of best experts whose probabilities together exceed p, with those "
    "probabilities as weights",
    formula="n = min{m : Σ_{i ≤ m} p_(i) > p} (all experts if never); w = p, not normalised",
    source="Harder Tasks Need More Experts, arXiv 2403.07652 (p = 0.4)",
    shows="the best experts of each token, as many as exceed p together, with their probabilities as weights",
    options=(Option("p", finite, 0.4, "p, the probability to exceed", low=0.0, high=1.0),),
    assign=assign,
    width=lambda options, top_k, num_experts: num_experts,
    drops=True,
    needs=("logits", "scores"),
    example={"p": 0.9},
    notes="Probabilities are the softmax of the logits, or the family's own scores over their sum. The choice made "
    "before is not looked at, so a `ban` before it has no effect (a `mask` has); a family's scaling of its weights, "
    "correction bias and groups are left out.",
)
