"""The least important experts return their mean output, whatever they are given."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from probes.errors import ProbeError, UsageError
from probes.interventions import Spec
from probes.metrics.expert_importance import NEEDS
from probes.recipes.base import LAYERS, Asked, Option, Recipe, layers_of, top


def build(asked: Asked, options: dict[str, Any], words: dict[str, Any]) -> Iterator[Spec]:
    from probes.interventions.catalogue.output import from_moments

    if words:
        raise UsageError(f"mean_outputs has no option {sorted(words)[0]!r}; it has criterion, share and layers")
    moments = asked.opened.moments(asked.run_id)
    if not moments:
        raise ProbeError("mean_outputs needs mean outputs: record with --capture moments")
    frame = asked.analyze("expert_importance", layers=layers_of(options), criterion=options["criterion"])
    count = math.floor(options["share"] * frame["expert"].nunique())
    frame = frame.assign(importance=frame["importance"].fillna(-math.inf))
    least = top(frame, "importance", count, per_layer=True, highest=False)
    chosen = [(layer, expert) for layer, expert in least if moments[layer][0][expert] > 0]
    if chosen:
        yield from_moments(moments, chosen)


RECIPE = Recipe(
    name="mean_outputs",
    title="Novices in place of experts",
    does="replaces the output of each layer's least important experts by their recorded mean (the intervention output)",
    source="MoNE, arXiv 2507.00390",
    build=build,
    options=(
        Option("criterion", str, "mone", "how importance is measured", tuple(NEEDS)),
        Option("share", float, 0.25, "the share of a layer's experts that is replaced, rounded down", low=0, high=1),
        LAYERS,
    ),
    example="mean_outputs:criterion=mone,share=0.25",
)
