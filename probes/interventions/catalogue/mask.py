"""Mask: the named experts' logits are −∞, so their probability mass goes to the others."""

from __future__ import annotations

from typing import Any

from probes.interventions.base import Intervention, Options
from probes.interventions.site import Site


def logits(site: Site, options: Options, z: Any) -> Any:
    return z.masked_fill(site.mask(z), float("-inf"))


def key(site: Site, options: Options, key: Any) -> Any:
    return key.masked_fill(site.mask(key), float("-inf"))


INTERVENTION = Intervention(
    name="mask",
    title="Mask logits",
    does="sets the logits of the named experts to −∞ before the scores are made: their mass goes to the other experts",
    formula="z_e ← −∞ for e named",
    source="logit mask",
    shows="count 0 for the named experts, their logits −∞",
    named="experts",
    logits=logits,
    key=key,
    optional=("key",),
    removes=True,
    notes="A correction bias added to the scores could bring an expert back, so it is out of the choice too.",
)
