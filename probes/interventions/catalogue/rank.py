"""Rank: a token gets the experts of certain ranks, not the best ones."""

from __future__ import annotations

from typing import Any

from probes.errors import UsageError
from probes.interventions.base import Intervention, Option, Options
from probes.interventions.site import Site


def key(site: Site, options: Options, key: Any) -> Any:
    # Ranked by what the family's own top-k sees: bias, groups and earlier edits included.
    best = key.topk(max(options["rank"]), dim=-1).indices
    site.state["ranked"] = best[:, [rank - 1 for rank in options["rank"]]]
    return key


def assign(site: Site, options: Options, ids: Any, weights: Any) -> tuple[Any, Any]:
    ranked = site.state["ranked"]
    assert site.weigh is not None
    return ranked, site.weigh(ranked)


def check(options: Options, top_k: int, num_experts: int) -> None:
    if max(options["rank"]) > num_experts:
        raise UsageError(f"there are ranks 1 to {num_experts}, not {max(options['rank'])}")


def width(options: Options, top_k: int, num_experts: int) -> int:
    return max(top_k, len(options["rank"])) if options["rank"] else top_k


INTERVENTION = Intervention(
    name="rank",
    title="Experts of a rank",
    does="gives each token the experts of the named ranks only; the family's own rule weighs them as if they were all",
    formula="ids = {r-th best of score : r named}; w by the family's own rule over these",
    source="rank-k routing of SCMoE, arXiv 2405.14507",
    shows="the experts of these ranks of the logits, as many as ranks are named",
    options=(Option("rank", int, (2,), "ranks, 1 is the best expert", low=1, repeatable=True),),
    key=key,
    assign=assign,
    check=check,
    width=width,
    needs=("logits", "router"),
    drops=True,
)
