"""Boost: the named experts count for more, where they are chosen anyway."""

from __future__ import annotations

from typing import Any

from probes.interventions.base import RENORMALIZE, Intervention, Option, Options, finite, renormalized
from probes.interventions.site import Site


def assign(site: Site, options: Options, ids: Any, weights: Any) -> tuple[Any, Any]:
    factor = site.kept("factor", weights, lambda: site.mask(weights) * (options["factor"] - 1.0) + 1.0)
    boosted = weights * factor[ids]
    return ids, renormalized(boosted, weights) if options["renormalize"] else boosted


INTERVENTION = Intervention(
    name="boost",
    title="Boost experts",
    does="multiplies the weight of the named experts where they are chosen; who is chosen stays the same",
    formula="w_e ← β · w_e for e named and chosen",
    source="RICE, arXiv 2505.14681 (β 4 to 128 on the two top cognitive experts)",
    shows="weights of the named experts β times those of the baseline, in the first layer edited",
    named="experts",
    options=(Option("factor", finite, 4.0, "β, what their weight is multiplied by", low=0.0), RENORMALIZE),
    assign=assign,
    neutral={"factor": 1.0},
)
