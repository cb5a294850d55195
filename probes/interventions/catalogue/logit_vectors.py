"""Logit vectors: one number per expert, added to the logits or put in their place."""

from __future__ import annotations

from typing import Any

from probes.errors import UsageError
from probes.interventions.base import Intervention, Option, Options
from probes.interventions.site import Site
from probes.interventions.values import vectors


def logits(site: Site, options: Options, z: Any) -> Any:
    if callable(options["vectors"]):
        return options["vectors"](site, z)
    vector = site.kept("vectors", z, lambda: z.new_tensor(options["vectors"][str(site.layer)]))
    return z + vector if options["mode"] == "add" else vector.expand_as(z)


def check(options: Options, top_k: int, num_experts: int) -> None:
    table = options["vectors"]
    if table is None:
        raise UsageError('which vectors? As in {"name": "logit_vectors", "vectors": {"3": [0.5, -1, ...]}, "layer": 3}')
    if callable(table):
        return
    vector = table.get(str(options["layer"]))
    if vector is None:
        raise UsageError("there is no vector for it; say layers= to act on some layers only")
    if len(vector) != num_experts:
        raise UsageError(f"its vector has {len(vector)} numbers, and there are {num_experts} experts")


def _ramp(site: Site, z: Any) -> Any:
    return z + z.new_tensor(range(site.num_experts))


INTERVENTION = Intervention(
    name="logit_vectors",
    title="Vectors over logits",
    does="adds a vector to the logits of each layer before the scores are made, or puts it in their place",
    formula="z ← z + δ_l, or z ← δ_l",
    source="Rewiring experts on the fly, arXiv 2510.14853 (add); C3PO, arXiv 2504.07964 (replace)",
    shows="logits δ above those of the baseline (add) or equal to δ (replace), in the first layer edited",
    options=(
        Option("vectors", vectors, None, "δ: {layer: [a number per expert]}"),
        Option("mode", str, "add", "add the vectors, or replace the logits by them", choices=("add", "replace")),
    ),
    logits=logits,
    check=check,
    example={"vectors": _ramp},
    notes="What `rewire` learned can be kept as one of these.",
)
