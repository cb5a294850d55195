"""Ensemble: several noisy routings of the same token, and the mean of what they predict."""

from __future__ import annotations

from typing import Any

from probes.interventions.base import Option, finite, flag
from probes.interventions.decoding.base import Options, Strategy
from probes.interventions.spec import Scope, Spec


def specs(options: Options, batch: int) -> tuple[Spec, ...]:
    """Noise in every copy but the first, at the newest token: what the cache holds is clean."""
    n = options["n"]
    rows = tuple(row for row in range(batch * n) if row % n)
    noise = {"tau": options["tau"], "spare_ends": options["spare_ends"]}
    scope = Scope(layers=options["layers"] or None, sequences=rows, last=1, seed=options["seed"])
    return (Spec("noise", noise, scope),)


def combine(options: Options, z: Any) -> Any:
    """The log of the mean probability over the copies."""
    return z.log_softmax(-1).logsumexp(1) - z.new_tensor(z.shape[1]).log()


STRATEGY = Strategy(
    name="ensemble",
    title="Ensemble of noisy routings",
    does="runs n copies of each sequence in one batch, all but the first with noise in the choice of experts, and "
    "averages their probabilities; the copies share the clean copy's cache",
    formula="p = 1/n · Σ_c softmax(z_c), c = 0 clean, c > 0 with ids = top-k(router logits + τ·Gumbel)",
    source="Roster of Experts (RoE), arXiv 2509.17238",
    cost="n positions per token, in one pass; the prompt is computed once",
    options=(
        Option("n", int, 4, "copies of each sequence, the clean one included", low=1, high=256),
        Option("tau", finite, 0.3, "τ, how strong the noise is", low=0.0),
        Option("spare_ends", flag, True, "no noise in the first and the last of these layers"),
        Option("layers", int, (), "the layers with noise; all unless named", low=0, repeatable=True),
        Option("seed", int, 0, "seed of the noise", low=0),
    ),
    copies=lambda options: int(options["n"]),
    specs=specs,
    combine=combine,
    lends=True,
    neutral={"n": 1},
    notes="The source tunes τ per layer; here it is one number, 0 in the first and the last layer as there.",
)
