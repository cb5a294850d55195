"""Mask top: each token's best experts are out of reach; how well do the next ones stand in?"""

from __future__ import annotations

from typing import Any

from probes.interventions.base import Intervention, Option, Options
from probes.interventions.site import Site


def key(site: Site, options: Options, key: Any) -> Any:
    if not options["r"]:
        return key
    return key.scatter(-1, key.topk(options["r"], dim=-1).indices, float("-inf"))


INTERVENTION = Intervention(
    name="mask_top",
    title="Mask the top experts",
    does="takes each token's r highest-scoring experts out of its choice; the next k take their place",
    formula="ids = top-k(score over all but the token's r highest); w by the family's own rule",
    source="DeepSeekMoE, arXiv 2401.06066: the redundancy test, where loss is measured over the share masked",
    shows="experts of rank r + 1 to r + k by score, in the first layer edited",
    options=(Option("r", int, 1, "r, how many of a token's best experts are masked", low=0),),
    key=key,
    hides=lambda options: int(options["r"]),
    neutral={"r": 0},
    notes="After `ban` or `prune`, the r best of those left are masked. Logits and scores stay, so in families that do "
    "not normalise the chosen weights the layer's output shrinks too.",
)
