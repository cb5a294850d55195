"""C3PO: the routing of the last prompt token, moved towards that of similar prompts answered correctly."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from probes.errors import UsageError
from probes.interventions.base import Option, finite
from probes.interventions.decoding.base import Learner, Options, Strategy


def prompts_file(value: Any) -> Any:
    """A file of prompts with targets; from Python also `References` made before."""
    return str(value) if hasattr(value, "__fspath__") else value


def learn(model: Any, options: Options, tokenizer: Any) -> AbstractContextManager[Learner]:
    """The pathways, in place while the block lasts."""
    from probes.interventions.adaptation.c3po import c3po

    return c3po(model, options, tokenizer)


def check(options: Options) -> None:
    if options["references"] is None:
        raise UsageError("c3po needs reference prompts with targets: references=FILE.jsonl")


STRATEGY = Strategy(
    name="c3po",
    title="Pathways of successful neighbours",
    does="finds the reference prompts nearest to each prompt that the model answers correctly, and moves the routing "
    "of the last prompt token in the last layers towards theirs, for its core experts",
    formula="ω ← α·ω + (1 − α)·Σ_i K_i ω_i (kernel), or ω ← ω − η ∇ Σ_i K_i loss_i(ω) (gradient), i the nearest",
    source="C3PO, arXiv 2504.07964: last 5 layers, last token, core experts 20 of 64, 3 neighbours, 10 gradient steps",
    cost="plain decoding, one more pass over the prompt, and over the neighbours 5 to choose α or `steps` to descend",
    options=(
        Option("references", prompts_file, None, "prompts with targets, as a file", metavar="FILE"),
        Option("method", str, "kernel", "kernel regression or gradient descent", choices=("kernel", "gradient")),
        Option("neighbors", int, 3, "nearest correctly answered references", low=1, high=256),
        Option("layers", int, 5, "how many of the last MoE layers", low=1),
        Option("core", int, 20, "how many of a layer's experts, those with the highest scores", low=1),
        Option("kernel", str, "gaussian", "how neighbours are weighted", choices=("gaussian", "cosine")),
        Option("alpha", finite, None, "α; chosen by the neighbours' loss unless given", low=0.0, high=1.0),
        Option("steps", int, 10, "gradient steps", low=0, high=1000),
        Option("lr", finite, 0.05, "η, step size of the gradient", low=0.0),
    ),
    learn=learn,
    check=check,
    neutral={"alpha": 1.0, "method": "kernel"},
    notes="A reference counts as answered correctly if greedy decoding gives its target; a prompt is never its own "
    "neighbour. Similarity is the cosine of the mean last hidden state; the Gaussian's width is the neighbours' mean "
    "distance. The gradient steps in the logits.",
)
