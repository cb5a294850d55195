"""Shrink: of a token's chosen experts only the heaviest are kept."""

from __future__ import annotations

from typing import Any

from probes.interventions.base import RENORMALIZE, Intervention, Option, Options, renormalized
from probes.interventions.site import Site


def assign(site: Site, options: Options, ids: Any, weights: Any) -> tuple[Any, Any]:
    if options["to"] >= weights.shape[1]:
        return ids, weights
    best = weights.topk(options["to"], dim=-1)
    ids = ids.gather(1, best.indices)
    return ids, renormalized(best.values, weights) if options["renormalize"] else best.values


INTERVENTION = Intervention(
    name="shrink",
    title="Fewer experts after the choice",
    does="keeps the k' largest weights of each token and drops the other slots; weights stay as they were",
    formula="keep the k' largest of w",
    source="after selection; `top_k` lets the family's own rule weigh the k' instead",
    shows="at most k' experts per token",
    options=(Option("to", int, 1, "k', how many experts a token keeps", low=1), RENORMALIZE),
    assign=assign,
    drops=True,
)
