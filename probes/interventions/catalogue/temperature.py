"""Temperature: sharper or softer scores."""

from __future__ import annotations

from typing import Any

from probes.interventions.base import Intervention, Option, Options, finite
from probes.interventions.site import Site


def logits(site: Site, options: Options, z: Any) -> Any:
    return z / options["tau"]


INTERVENTION = Intervention(
    name="temperature",
    title="Router temperature",
    does="divides the logits by τ: above 1 the weights become more even, below 1 more extreme",
    formula="z ← z / τ",
    source="softmax temperature",
    shows="logits of the baseline divided by τ, in the first layer edited",
    options=(Option("tau", finite, 2.0, "τ, what the logits are divided by", low=1e-3),),
    logits=logits,
    neutral={"tau": 1.0},
)
