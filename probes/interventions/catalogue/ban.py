"""Ban: the named experts cannot be chosen; the next best take their slots."""

from __future__ import annotations

from typing import Any

from probes.interventions.base import Intervention, Options
from probes.interventions.site import Site


def key(site: Site, options: Options, key: Any) -> Any:
    return key.masked_fill(site.mask(key), float("-inf"))


INTERVENTION = Intervention(
    name="ban",
    title="Ban experts",
    does="takes the named experts out of the choice; the next best expert takes each slot, logits and scores stay",
    formula="ids = top-k(score over e not named); w by the family's own rule",
    source="selection mask",
    shows="count 0 for the named experts",
    named="experts",
    key=key,
    removes=True,
)
