"""Prune: only the experts on a list are left. The cheap, reversible trial of a pruning decision."""

from __future__ import annotations

from typing import Any

from probes.interventions.base import Intervention, Options
from probes.interventions.site import Site


def key(site: Site, options: Options, key: Any) -> Any:
    return key.masked_fill(~site.mask(key), float("-inf"))


INTERVENTION = Intervention(
    name="prune",
    title="Prune to a keep-list",
    does="takes all experts out of the choice but those named for the layer, as if the others had been pruned",
    formula="ids = top-k(score over e named); w by the family's own rule",
    source="trial of expert pruning; the list of any criterion of `expert_importance`",
    shows="count 0 for all experts that are not on the list",
    named="experts",
    key=key,
    keeps=True,
    sized=("experts",),
    aliases={"keep": "experts"},
    notes="As `ban` of all others: logits and scores stay. Layers for which no expert is named keep all. Several lists "
    "act together: what all of them name is left.",
)
