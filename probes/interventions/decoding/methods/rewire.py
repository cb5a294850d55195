"""Rewire: vectors over the router's logits, learned on the prompt and again on what has been written."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from probes.interventions.base import Option, finite
from probes.interventions.decoding.base import Learner, Options, Strategy


def learn(model: Any, options: Options, tokenizer: Any) -> AbstractContextManager[Learner]:
    """The vectors, at work while the block lasts."""
    from probes.interventions.adaptation.rewire import rewiring

    return rewiring(model, options, tokenizer)


STRATEGY = Strategy(
    name="rewire",
    title="Rewiring on the fly",
    does="learns, per sequence, a vector for each layer that is added to the router's logits, by a few steps that "
    "lower the next-token loss of the prompt, and again of everything so far; then decodes under it and drops it",
    formula="δ ← δ − η ∇_δ mean_t −log p(x_t | x_<t; z_l + δ_l)",
    source="Rewiring experts on the fly, arXiv 2510.14853",
    cost="plain decoding, and per time it learns `steps` passes over all tokens so far, forwards and backwards",
    options=(
        Option("steps", int, 5, "steps each time it learns; 0 is plain decoding", low=0, high=1000),
        Option("lr", finite, 0.05, "η, step size", low=0.0),
        Option("optimizer", str, "adam", "how it steps", choices=("adam", "sgd")),
        Option("every", int, 128, "tokens after which it learns again; 0 is never", low=0),
        Option("layers", int, (), "the layers that may learn; all unless named", low=0, repeatable=True),
        Option(
            "confident",
            finite,
            0.5,
            "share of them that learn: those with the most confident routers",
            low=0.01,
            high=1,
        ),
    ),
    learn=learn,
    neutral={"steps": 0},
    notes="As the source does, only layers with confident routers learn; confidence here is the mean over the prompt's "
    "tokens of the highest score. Step size and number of steps are ours. After learning, the cache is computed anew.",
)
