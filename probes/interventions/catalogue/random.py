"""Random: k experts drawn evenly, whatever the router says. The control that causal claims need."""

from __future__ import annotations

from typing import Any

from probes.interventions.base import Intervention, Options
from probes.interventions.site import Site


def key(site: Site, options: Options, key: Any) -> Any:
    drawn = site.random(*key.shape, like=key)
    return drawn.where(key.isfinite(), key.float())  # who is banned or forced by what came before stays so


INTERVENTION = Intervention(
    name="random",
    title="Random choice",
    does="draws each token's experts evenly at random; the family's own rule weighs whom it drew",
    formula="ids ~ uniform over sets of k experts; w by the family's own rule",
    source="control",
    shows="every expert equally often, within chance",
    key=key,
    notes="Who was banned or forced before stays so.",
)
