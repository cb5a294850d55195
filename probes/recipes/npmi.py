"""The experts that go with a label or a token most, by nPMI."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from probes.errors import UsageError
from probes.interventions import Spec
from probes.recipes.base import LAYERS, PER_LAYER, Asked, Option, Recipe, acting, layers_of, top


def build(asked: Asked, options: dict[str, Any], words: dict[str, Any]) -> Iterator[Spec]:
    if sum(bool(options[name]) for name in ("label", "marker", "contrast")) != 1:
        raise UsageError("npmi goes by a label, a marker or a contrast, one of them: npmi:label=sums,top=2")
    layers = layers_of(options)
    if options["label"]:
        frame = asked.analyze("npmi", layers=layers)
        frame = frame[frame["target"] == asked.label(options["label"])]
    elif options["marker"]:
        frame = asked.analyze("npmi", layers=layers, target=f"marker:{options['marker']}")
    else:
        frame = asked.analyze("npmi", layers=layers, contrast=options["contrast"], minus=options["minus"])
    column = "score" if options["contrast"] else "npmi"
    yield acting(top(frame, column, options["top"], options["per_layer"]), words)


RECIPE = Recipe(
    name="npmi",
    title="Experts of a label or a token",
    does="names the experts with the highest nPMI with a label, a marker token, or a contrast of tokens",
    source="RICE, arXiv 2505.14681 (the two experts with the highest contrast of the thinking tokens, boosted)",
    action="ban",
    build=build,
    options=(
        Option("label", str, "", "a label of the sequences"),
        Option("marker", str, "", "the text of a token"),
        Option("contrast", str, "", "a token; its nPMI minus that of `minus`"),
        Option("minus", str, (), "tokens to subtract, joined by +", repeatable=True),
        Option("top", int, 2, "how many experts", low=1),
        PER_LAYER,
        LAYERS,
    ),
    example="npmi:label=arithmetic,top=2,action=ban",
)
