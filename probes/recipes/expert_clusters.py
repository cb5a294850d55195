"""Experts that return nearly the same answer as one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from probes.errors import UsageError
from probes.interventions import Spec
from probes.recipes.base import LAYERS, Asked, Option, Recipe, layers_of


def build(asked: Asked, options: dict[str, Any], words: dict[str, Any]) -> Iterator[Spec]:
    from probes.interventions.catalogue.output import from_clusters

    if words:
        raise UsageError(f"expert_clusters has no option {sorted(words)[0]!r}; it has clusters and layers")
    layers = layers_of(options)
    frame = asked.analyze("expert_clusters", layers=layers, clusters=options["clusters"])
    used = asked.analyze("load", layers=layers).set_index(["layer", "expert"])["count"]
    clusters, weights = {}, {}
    for layer, part in frame.sort_values("expert").groupby("layer"):
        # An expert without a mean output was never chosen: it stays alone, under a number of its own.
        alone = -1 - part["expert"]
        clusters[int(layer)] = part["cluster"].astype("Float64").fillna(alone.astype("Float64")).astype(int).tolist()
        weights[int(layer)] = [float(used.loc[(layer, expert)]) for expert in part["expert"]]
    yield from_clusters(clusters, weights)


RECIPE = Recipe(
    name="expert_clusters",
    title="Merged clusters",
    does="lets every expert of a cluster of alike experts answer with the cluster's mean, weighted by how often each "
    "was chosen (the intervention output)",
    source="HC-SMoE, arXiv 2410.08589 (which merges the weights; here it is the outputs)",
    build=build,
    options=(Option("clusters", int, None, "clusters per layer (default: half of the experts)", low=1), LAYERS),
    example="expert_clusters:clusters=12",
)
