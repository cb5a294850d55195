"""Force: the named experts are always chosen; the family's own rule weighs them."""

from __future__ import annotations

from typing import Any

from probes.errors import UsageError
from probes.interventions.base import Intervention, Options
from probes.interventions.site import Site


def key(site: Site, options: Options, key: Any) -> Any:
    return key.masked_fill(site.mask(key), float("inf"))


def check(options: Options, top_k: int, num_experts: int) -> None:
    if len(options["named"]) > top_k:
        raise UsageError(f"{len(options['named'])} experts are to be forced, but a token gets {top_k}")


INTERVENTION = Intervention(
    name="force",
    title="Force experts",
    does="puts the named experts into every choice; the best others fill what is left",
    formula="ids = named ∪ top-(k − n)(score of the others); w by the family's own rule",
    source="selection override",
    shows="the named experts in every token's choice",
    named="experts",
    sized=("experts",),
    key=key,
    check=check,
)
