"""Zero: the named experts' weight is 0, and nobody takes their place."""

from __future__ import annotations

from typing import Any

from probes.interventions.base import RENORMALIZE, Intervention, Options, renormalized
from probes.interventions.site import Site


def assign(site: Site, options: Options, ids: Any, weights: Any) -> tuple[Any, Any]:
    left = weights.masked_fill(site.mask(weights)[ids], 0.0)
    return ids, renormalized(left, weights) if options["renormalize"] else left


INTERVENTION = Intervention(
    name="zero",
    title="Zero experts",
    does="sets the weight of the named experts to 0 after the choice; no other expert takes the slot",
    formula="w_e ← 0 for e named and chosen",
    source="ablation without replacement",
    shows="weight 0 in every slot of the named experts",
    named="experts",
    options=(RENORMALIZE,),
    assign=assign,
)
