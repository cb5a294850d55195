"""Reroute: slots of some experts go to another one, with the same weight."""

from __future__ import annotations

from typing import Any

from probes.errors import UsageError
from probes.interventions.base import Intervention, Option, Options
from probes.interventions.site import Site


def assign(site: Site, options: Options, ids: Any, weights: Any) -> tuple[Any, Any]:
    moved = ids.masked_fill(site.mask(weights)[ids], options["to"])
    return moved, _together(moved == options["to"], weights)


def _together(slots: Any, weights: Any) -> Any:
    """Weights of a token's `slots` [T, k] in the first of them: one expert with the sum is what two slots come to."""
    first = slots & (slots.cumsum(1) == 1)
    total = (weights * slots).sum(1, keepdim=True)
    twice = slots.sum(1, keepdim=True) > 1
    return weights.where(~(twice & slots), total * first)


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
    shows="count 0 for the named experts; their weight with the expert they were sent to, in the first layer edited",
    named="experts",
    receives="to",
    options=(Option("to", int, None, "the expert that gets the slots", low=0),),
    assign=assign,
    check=check,
    drops=True,
    example={"to": 0},
    aliases={"from": "experts"},
    notes="A token that has the expert already gives it both weights, in one slot; the other slot is dropped.",
)
