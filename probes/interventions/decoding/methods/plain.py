"""Plain decoding: one pass per token. What every other strategy is compared with."""

from __future__ import annotations

from probes.interventions.decoding.base import Strategy

STRATEGY = Strategy(
    name="plain",
    title="Plain decoding",
    does="takes each token from the model's own distribution",
    formula="p = softmax(z)",
    source="baseline",
    cost="one position per token",
    neutral={},
)
