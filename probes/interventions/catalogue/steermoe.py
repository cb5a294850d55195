"""SteerMoE: sets of experts are put just above all others, or just below."""

from __future__ import annotations

from typing import Any

from probes.errors import UsageError
from probes.interventions.base import Intervention, Option, Options
from probes.interventions.site import Site
from probes.interventions.values import experts, experts_at, pairs_in

STEP = 0.01


def logits(site: Site, options: Options, z: Any) -> Any:
    import torch

    s = z.float().log_softmax(-1) if site.scoring == "softmax" else z.float()
    up, down = _mask(site, options, z, "activate"), _mask(site, options, z, "deactivate")
    highest, lowest = s.amax(-1, keepdim=True), s.amin(-1, keepdim=True)
    # Where the logits' own precision is too coarse for a hundredth, one of its steps: a tie would be no order.
    eps = torch.finfo(z.dtype).eps
    s = torch.where(up, highest + (highest.abs() * eps).clamp(min=STEP), s)
    return torch.where(down, lowest - (lowest.abs() * eps).clamp(min=STEP), s).to(z.dtype)


def _mask(site: Site, options: Options, like: Any, name: str) -> Any:
    """bool [E]: the experts of the set `name` in this layer."""

    def make() -> Any:
        mask = like.new_zeros(site.num_experts)
        mask[list(_set(options, name, site.layer, site.top_k))] = 1
        return mask

    return site.kept(name, like, make).bool()


def _set(options: Options, name: str, layer: int, top_k: int) -> tuple[int, ...]:
    found = experts_at(pairs_in(options[name]), layer)
    return found[:top_k] if name == "activate" else found


def check(options: Options, top_k: int, num_experts: int) -> None:
    up, down = (set(_set(options, name, options["layer"], num_experts)) for name in ("activate", "deactivate"))
    if up & down:
        raise UsageError(f"expert {min(up & down)} is to be activated and deactivated")


INTERVENTION = Intervention(
    name="steermoe",
    title="Activate and deactivate experts",
    does="lifts the experts of one set just above a token's best score, and puts those of the other just below its "
    "worst; of more than k activated ones in a layer the first k are lifted",
    formula="s = log_softmax(z); s[+] ← max(s) + 0.01; s[−] ← min(s) − 0.01, per token",
    source="SteerMoE, arXiv 2509.09660",
    shows="the activated experts in every choice, in the first layer edited; the deactivated ones nowhere while k "
    "others are left",
    naming=("activate", "deactivate"),
    sized=("activate",),
    options=(
        Option("activate", experts, (), "experts to lift, best first, as in 3.7+5.1 (layer.expert)"),
        Option("deactivate", experts, (), "experts to put last"),
    ),
    logits=logits,
    check=check,
    example={"activate": "0", "deactivate": "1"},
    notes="Families that score by sigmoid or softplus have no log_softmax: there s is z itself. All lifted experts "
    "get the same score, so they share the weight. A correction bias added to the scores, or a limit to groups, may "
    "overrule the order; add `force` or `ban` then. Layers without a named expert are left alone.",
)
