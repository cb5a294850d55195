"""Experts that are chosen more in one set of texts than in another: to activate, and to deactivate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from probes.errors import UsageError
from probes.interventions import Spec, parse
from probes.interventions.base import flag
from probes.recipes.base import LAYERS, Asked, Option, Recipe, layers_of, top


def build(asked: Asked, options: dict[str, Any], words: dict[str, Any]) -> Iterator[Spec]:
    if not options["label"] or not options["against"]:
        raise UsageError("risk_difference compares two sets: risk_difference:label=ask=text,against=ask=memory")
    if options["activate"] + options["deactivate"] == 0:
        raise UsageError("risk_difference: nothing to activate and nothing to deactivate")
    pair = {name: options[name] for name in ("label", "against")}
    frame = asked.analyze("risk_difference", layers=layers_of(options), **pair)
    frame = frame.assign(rd=-frame["rd"]) if options["reverse"] else frame
    sets = {
        "activate": top(frame[frame["rd"] > 0], "rd", options["activate"], per_layer=False),
        "deactivate": top(frame[frame["rd"] < 0], "rd", options["deactivate"], per_layer=False, highest=False),
    }
    named = {name: [list(pair) for pair in pairs] for name, pairs in sets.items() if pairs}
    if named:
        yield parse({"name": "steermoe", **words, **named})


RECIPE = Recipe(
    name="risk_difference",
    title="Experts of one behaviour against another",
    does="activates the experts that one set of texts chooses more than the other, and deactivates those it chooses "
    "less (the intervention steermoe)",
    source="SteerMoE, arXiv 2509.09660",
    build=build,
    options=(
        Option("label", str, "", "the texts to steer towards: a label, or key=value of their metadata"),
        Option("against", str, "", "the texts to steer away from, likewise"),
        Option("activate", int, 2, "how many experts to activate, those with the highest difference", low=0),
        Option("deactivate", int, 2, "how many to deactivate, those with the lowest", low=0),
        Option("reverse", flag, False, "the other way round"),
        LAYERS,
    ),
    example="risk_difference:label=ask=text,against=ask=memory,activate=4,deactivate=4",
)
