"""Keep only the experts that matter, by any criterion of the metric."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from probes.interventions import Spec
from probes.metrics.expert_importance import NEEDS
from probes.recipes.base import LAYERS, Asked, Option, Recipe, acting, layers_of, top


def build(asked: Asked, options: dict[str, Any], words: dict[str, Any]) -> Iterator[Spec]:
    common = {"layers": layers_of(options), "criterion": options["criterion"]}
    if options["label"]:
        frame = asked.analyze("expert_importance", by="label", **common)
        frame = frame[frame["label"] == asked.label(options["label"])]
    else:
        frame = asked.analyze("expert_importance", **common)
    # Experts that were never chosen may have no value; they are the first to go.
    frame = frame.assign(importance=frame["importance"].fillna(-math.inf))
    kept = math.ceil(options["keep"] * frame["expert"].nunique())
    yield acting(top(frame, "importance", kept, per_layer=True), words)


RECIPE = Recipe(
    name="expert_importance",
    title="Keep-list of an importance criterion",
    does="keeps the most important experts of every layer and prunes the others",
    source="PESF, arXiv 2508.01625; EAN and REAP: arXiv 2510.13999; EASY-EP: arXiv 2504.06792; MoNE: arXiv 2507.00390",
    action="prune",
    build=build,
    options=(
        Option("criterion", str, "reap", "how importance is measured", tuple(NEEDS)),
        Option("keep", float, 0.75, "the share of a layer's experts that stays, rounded up", low=0, high=1),
        Option("label", str, "", "measured over the sequences of this label only"),
        LAYERS,
    ),
    example="expert_importance:criterion=reap,keep=0.5",
)
