"""Expert choice: the experts pick their tokens, not the tokens their experts."""

from __future__ import annotations

from typing import Any

from probes.interventions.base import Intervention, Option, Options, finite
from probes.interventions.catalogue.capacity import capacity
from probes.interventions.site import Site


def assign(site: Site, options: Options, ids: Any, weights: Any) -> tuple[Any, Any]:
    real, p = site.real(ids), site.scores()
    tokens = int(real.sum())
    limit = min(capacity(options["gamma"], ids.shape[1], tokens, site.num_experts), tokens)
    picked = p.masked_fill(~real[:, None], -1.0).topk(limit, dim=0).indices
    chosen = p.new_zeros(p.shape).scatter(0, picked, 1.0)
    slots = max(int(chosen.sum(-1).max()), 1)
    best = (p * chosen).topk(slots, dim=-1)
    return best.indices, best.values


INTERVENTION = Intervention(
    name="expert_choice",
    title="Expert choice",
    does="lets each expert take its C best tokens of the pass; a token may get many experts, or none",
    formula="C = ⌈γ·k·T/E⌉; expert e takes the C tokens with the largest p_e; w = p, not normalised",
    source="Mixture-of-Experts with Expert Choice Routing, arXiv 2202.09368",
    shows="every expert C times in a pass",
    options=(Option("gamma", finite, 1.0, "γ, the capacity factor", low=1e-6, high=1e6),),
    assign=assign,
    width=lambda options, top_k, num_experts: num_experts,
    drops=True,
    needs=("logits", "scores"),
    per_pass=True,
    notes="Not causal: whether an expert takes a token depends on the tokens after it and on the rest of the batch, "
    "so likelihoods of a text under it are not those of a model that could write the text. A single token being "
    "decoded is every expert's best and goes to all; scope it with phase=prefill where that is not meant.",
)
