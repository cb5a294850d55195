"""Uniform: every expert counts the same. What is left when the router has nothing to say."""

from __future__ import annotations

from typing import Any

from probes.interventions.base import Intervention, Options
from probes.interventions.site import Site


def assign(site: Site, options: Options, ids: Any, weights: Any) -> tuple[Any, Any]:
    drawn = site.random(len(ids), site.num_experts, like=weights).topk(ids.shape[1], dim=-1).indices
    return drawn, weights.mean(-1, keepdim=True).expand_as(weights)


INTERVENTION = Intervention(
    name="uniform",
    title="Uniform choice and weights",
    does="treats all scores as equal: each token's experts are drawn evenly, and share its total weight equally",
    formula="ids ~ uniform over sets of k experts; w_i ← Σ_j w_j / k, the w of the router's own choice",
    source="control; `random` draws the same way but lets the family's rule weigh whom it drew",
    shows="every expert equally often, within chance; equal weights that sum to the baseline's, in the first layer "
    "edited",
    assign=assign,
    notes="Equal scores as such would also change how much the experts count together (k/E in families that do not "
    "normalise), and a control must change one thing. So a token's total weight stays what its router made it.",
)
