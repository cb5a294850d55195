"""Contrast: what the best experts say, away from what lower-ranked experts say."""

from __future__ import annotations

import math
from typing import Any

from probes.interventions.base import Option, finite
from probes.interventions.decoding.base import Options, Strategy
from probes.interventions.spec import Scope, Spec


def specs(options: Options, batch: int) -> tuple[Spec, ...]:
    """Odd rows are the weak pass: throughout, so its cache is its own."""
    weak = tuple(range(1, 2 * batch, 2))
    return (Spec("rank", {"rank": options["rank"]}, Scope(layers=options["layers"] or None, sequences=weak)),)


def combine(options: Options, z: Any) -> Any:
    """(1 + β)·strong − β·weak, over the tokens whose strong probability is at least α times the highest."""
    strong, weak = z[:, 0], z[:, 1]
    floor = strong.amax(-1, keepdim=True) + math.log(options["alpha"])
    contrasted = (1 + options["beta"]) * strong - options["beta"] * weak
    return contrasted.masked_fill(strong < floor, float("-inf"))


STRATEGY = Strategy(
    name="contrast",
    title="Contrast with weak routing",
    does="runs each sequence twice, with the model's own routing and with lower-ranked experts only, and moves the "
    "logits away from what the weak routing says",
    formula="z = (1 + β)·z_strong − β·z_weak over tokens with z_strong ≥ max z_strong + ln α",
    source="Self-contrast (SCMoE), arXiv 2405.14507: weak = rank-k routing, β 0.5, α 0.1, rank 2",
    cost="two positions per token, in one pass, and a second cache",
    options=(
        Option("beta", finite, 0.5, "β, how far away from the weak routing; 0 is plain decoding", low=0.0),
        Option(
            "alpha", finite, 0.1, "α, the least share of the highest probability a token must have", low=1e-6, high=1
        ),
        Option("rank", int, (2,), "which experts the weak pass takes, 1 is the best", low=1, repeatable=True),
        Option("layers", int, (), "the layers in which it does; all unless named", low=0, repeatable=True),
    ),
    copies=lambda options: 2,
    specs=specs,
    combine=combine,
    neutral={"beta": 0.0},
    notes="β = 0 leaves the mask of α out as well: it is there to guard the contrast.",
)
