"""Bias: a constant is added to the logits of the named experts."""

from __future__ import annotations

from typing import Any

from probes.interventions.base import Intervention, Option, Options, finite
from probes.interventions.site import Site


def logits(site: Site, options: Options, z: Any) -> Any:
    return z + site.kept("delta", z, lambda: site.mask(z) * options["delta"])


INTERVENTION = Intervention(
    name="bias",
    title="Add to logits",
    does="adds δ to the logits of the named experts before the scores are made",
    formula="z_e ← z_e + δ for e named",
    source="logit steering",
    shows="logits of the named experts δ above those of the baseline, in the first layer edited",
    named="experts",
    options=(Option("delta", finite, 1.0, "δ, added to their logits; negative pushes them away"),),
    logits=logits,
    neutral={"delta": 0.0},
)
