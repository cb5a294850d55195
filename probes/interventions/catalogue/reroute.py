"""Reroute: slots of some experts go to another one, with the same weight."""

from __future__ import annotations

from typing import Any

from probes.errors import UsageError
from probes.interventions.base import Intervention, Option, Options
from probes.interventions.site import Site


def assign(site: Site, options: Options, ids: Any, weights: Any) -> tuple[Any, Any]:
    return ids.masked_fill(site.mask(weights)[ids], options["to"]), weights


def check(options: Options, top_k: int, num_experts: int) -> None:
    if options["to"] is None:
        raise UsageError("to which expert? As in 'reroute:layer=3,from=7,to=9'")
    if options["to"] >= num_experts:
        raise UsageError(f"there are experts 0 to {num_experts - 1}, not {options['to']}")


INTERVENTION = Intervention(
    name="reroute",
    title="Reroute to another expert",
    does="sends the slots of the named experts to another expert, with the weight they had",
    formula="id ← to where id was named; w stays",
    source="activation patching of routing; weights stay those of the router",
    shows="count 0 for the named experts, their slots with the expert they were sent to",
    named="experts",
    options=(Option("to", int, None, "the expert that gets the slots (it may then hold two of a token)", low=0),),
    assign=assign,
    check=check,
    example={"to": 0},
    aliases={"from": "experts"},
)
