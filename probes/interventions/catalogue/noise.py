"""Noise: Gumbel noise decides who is chosen, clean logits how much they count."""

from __future__ import annotations

from typing import Any

from probes.interventions.base import Intervention, Option, Options, finite, flag
from probes.interventions.site import Site


def key(site: Site, options: Options, key: Any) -> Any:
    if options["tau"] == 0 or (options["spare_ends"] and site.layer in (site.layers[0], site.layers[-1])):
        return key
    uniform = site.random(*site.logits.shape, like=site.logits).clamp(min=1e-10)
    noisy = site.logits.float() + options["tau"] * -(-uniform.log()).log()
    return noisy.where(key.isfinite(), key.float())  # who is banned or forced by what came before stays so


INTERVENTION = Intervention(
    name="noise",
    title="Noisy choice",
    does="chooses by logits with Gumbel noise added, and weighs the chosen by their clean scores",
    formula="ids = top-k(z + τ · g), g ~ Gumbel(0, 1); w by the family's own rule from clean z",
    source="Roster of Experts (RoE), arXiv 2509.17238: τ per layer, 0 in the first and the last",
    shows="weights that the family's rule gives the chosen experts from the recorded logits",
    options=(
        Option("tau", finite, 0.3, "τ, how strong the noise is", low=0.0),
        Option("spare_ends", flag, True, "no noise in the first and the last of the layers"),
    ),
    key=key,
    neutral={"tau": 0.0},
    notes="Who was banned or forced before stays so; a choice drawn by `random` before is replaced.",
    example={"tau": 3.0, "spare_ends": False},
)
