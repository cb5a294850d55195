"""Top-k: another number of experts per token."""

from __future__ import annotations

from probes.errors import UsageError
from probes.interventions.base import Intervention, Option, Options
from probes.interventions.site import Site


def k(site: Site, options: Options, k: int) -> int:
    return int(options["k"])


def check(options: Options, top_k: int, num_experts: int) -> None:
    if options["k"] is None:
        raise UsageError("how many experts? As in 'top_k:k=4'")
    if options["k"] > num_experts:
        raise UsageError(f"k = {options['k']} is more than the {num_experts} experts there are")


def width(options: Options, top_k: int, num_experts: int) -> int:
    return int(options["k"])


INTERVENTION = Intervention(
    name="top_k",
    title="Experts per token",
    does="chooses k' experts instead of k; the family's own rule weighs them",
    formula="ids = top-k'(score)",
    source="Dynamic Experts Search, arXiv 2509.22572: vary k per run, keep it within a run",
    shows="k' experts per token",
    options=(Option("k", int, None, "k', experts per token", low=1),),
    k=k,
    check=check,
    width=width,
    per_pass=True,
    example={"k": 3},
)
