"""Online pruning: chosen experts that weigh little beside the token's best one are dropped as it comes by."""

from __future__ import annotations

from typing import Any

from probes.interventions.base import RENORMALIZE, Intervention, Option, Options, finite, renormalized
from probes.interventions.ranks import places
from probes.interventions.site import Site


def assign(site: Site, options: Options, ids: Any, weights: Any) -> tuple[Any, Any]:
    dropped = weights < options["ratio"] * weights.amax(1, keepdim=True)
    if options["protect"]:
        dropped &= ~_protected(site, ids, options["protect"])[:, None]
    left = weights.masked_fill(dropped, 0.0)
    return ids, renormalized(left, weights) if options["renormalize"] else left


def _protected(site: Site, like: Any, share: float) -> Any:
    """bool [T]: the share of each sequence's tokens in this pass whose input has the largest L1 norm."""
    real, sequence = site.real(like), site.sequence(like)
    size = site.hidden.float().abs().sum(-1).masked_fill(~real, -1.0)
    count = real.new_zeros(int(sequence.max()) + 1, dtype=sequence.dtype).scatter_add_(0, sequence, real.long())
    place = places(sequence, size.argsort(descending=True, stable=True), len(count))
    return place < (share * count).long()[sequence]


INTERVENTION = Intervention(
    name="online_pruning",
    title="Online pruning",
    does="drops a token's chosen experts whose weight is below a fraction of its largest, unless the token is one of "
    "the protected share",
    formula="w_i ← 0 where w_i < μ · max(w); protected: the p · S tokens of a sequence with the largest ‖x‖₁",
    source="ODP of MC-MoE, arXiv 2410.06270 (μ 0.5, p 0.1 in its code; there ‖x‖₁ is multiplied by the attention a "
    "token gives, which cannot be seen from here, and the rest is renormalised)",
    shows="no weight below μ times the token's largest, outside protected tokens",
    options=(
        Option("ratio", finite, 0.5, "μ, the fraction of the largest weight that is needed", low=0.0, high=1.0),
        Option("protect", finite, 0.0, "p, the share of tokens that keep all their experts", low=0.0, high=1.0),
        RENORMALIZE,
    ),
    assign=assign,
    drops=True,
    neutral={"ratio": 0.0},
    example={"ratio": 1.0},
    notes="Per token, unless `protect` ranks the tokens of a pass: a single token being decoded is never protected.",
)
