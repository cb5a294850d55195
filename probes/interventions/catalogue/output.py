"""Output: what an expert returns is replaced: by nothing, its mean, a multiple, or what other experts return."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from probes.errors import ProbeError, UsageError
from probes.interventions.base import Intervention, Option, Options, finite
from probes.interventions.site import Site
from probes.interventions.values import means, members

if TYPE_CHECKING:
    from probes.interventions.spec import Spec

MODES = ("zero", "mean", "scale", "other")


def outputs(site: Site, options: Options, outputs: Any, experts: Any) -> Any:
    named = site.mask(outputs)[experts][:, None]
    if options["mode"] == "zero":
        return outputs.masked_fill(named, 0.0)
    if options["mode"] == "scale":
        return outputs * site.kept("factor", outputs, lambda: _factors(site, outputs, options["factor"]))[experts]
    if options["mode"] == "mean":
        return outputs.where(~named, _means(site, options, outputs)[experts])
    return _others(site, options, outputs, experts)


def _factors(site: Site, like: Any, factor: float) -> Any:
    return (site.mask(like).to(like.dtype) * (factor - 1.0) + 1.0)[:, None]


def _means(site: Site, options: Options, like: Any) -> Any:
    """[E, H]: the mean outputs; 0 for experts that are not named."""

    def table() -> Any:
        rows = like.new_zeros(site.num_experts, like.shape[-1])
        for expert in site.named:
            mean = options["means"][str(site.layer)][str(expert)]
            if len(mean) != like.shape[-1]:
                where = f"{site.layer}.{expert}"
                raise ProbeError(f"output: the mean of {where} has {len(mean)} numbers, its outputs {like.shape[-1]}")
            rows[expert] = like.new_tensor(mean)
        return rows

    return site.kept("means", like, table)


def _others(site: Site, options: Options, outputs: Any, experts: Any) -> Any:
    """Each named expert's slots get the weighted mean of what its stand-ins return for the same token."""
    import torch

    assert site.run_expert is not None
    changed = outputs.clone()
    for expert in site.named:
        slots = (experts == expert).nonzero().squeeze(-1)
        if len(slots):
            ids, shares = _stand_ins(options, site.layer, expert)
            ids_ = torch.tensor(ids, device=experts.device).expand(len(slots), -1)
            returned = site.run_expert(site.hidden[site.slot_rows[slots]], ids_)
            weights = torch.tensor(shares, device=outputs.device, dtype=torch.float32)[:, None]
            changed[slots] = (returned.float() * weights).sum(1).to(outputs.dtype)
    return changed


def _stand_ins(options: Options, layer: int, expert: int) -> tuple[list[int], list[float]]:
    """Who answers for `expert`, and with which shares (they sum to 1)."""
    if options["to"] is not None:
        return [options["to"]], [1.0]
    found = options["members"][str(layer)][str(expert)]
    total = sum(found.values())
    return [int(member) for member in found], [share / total for share in found.values()]


def check(options: Options, top_k: int, num_experts: int) -> None:
    layer = str(options["layer"])
    if options["mode"] == "mean":
        _complete(options["means"], layer, options["named"], "means")
    if options["mode"] == "other" and options["to"] is None:
        _complete(options["members"], layer, options["named"], "members")
    stand_ins = {m for row in (options["members"] or {}).get(layer, {}).values() for m in map(int, row)}
    for expert in sorted(stand_ins | ({options["to"]} - {None})):
        if expert >= num_experts:
            raise UsageError(f"there are experts 0 to {num_experts - 1}, not {expert}")


def _complete(table: Mapping[str, Any] | None, layer: str, named: Iterable[int], what: str) -> None:
    missing = [expert for expert in named if str(expert) not in (table or {}).get(layer, {})]
    if missing:
        raise UsageError(
            f"{what} has no entry for expert {missing[0]}; it is a table {{layer: {{expert: ...}}}}, "
            f"or the name of a JSON file{', or say to=EXPERT' if what == 'members' else ''}"
        )


def from_moments(moments: Mapping[int, tuple[Any, Any, Any]], experts: Iterable[tuple[int, int]] | None = None) -> Spec:
    """The spec that gives experts their mean output (the "novices" of MoNE, arXiv 2507.00390).

    moments   layer -> (count [E], mean [E, H], m2 [E, H]), as `Trace.moments` and `Recorder.moments` have them
    experts   (layer, expert) pairs; None for every expert that was ever chosen
    """
    from probes.interventions.spec import parse

    pairs = [(la, e) for la, (count, *_) in moments.items() for e in range(len(count)) if count[e]]
    table: dict[str, dict[str, list[float]]] = {}
    for layer, expert in pairs if experts is None else experts:
        if (layer, expert) not in pairs:
            raise UsageError(f"output: no mean of expert {expert} in layer {layer}: it was never chosen")
        table.setdefault(str(layer), {})[str(expert)] = [float(v) for v in moments[layer][1][expert]]
    return parse({"name": "output", "mode": "mean", "means": table})


def from_clusters(clusters: Mapping[int, Any], weights: Mapping[int, Any] | None = None) -> Spec:
    """The spec that lets every expert of a cluster answer with the cluster's weighted mean (HC-SMoE, 2410.08589).

    clusters  layer -> cluster of each expert [E] int;  weights  layer -> [E], such as how often each was chosen;
    None for equal shares. Experts alone in their cluster stay as they are.
    """
    from probes.interventions.spec import parse

    table: dict[str, dict[str, Any]] = {}
    for layer, cluster_of in clusters.items():
        together: dict[int, list[int]] = {}
        for expert, cluster in enumerate(cluster_of):
            together.setdefault(int(cluster), []).append(expert)
        share = [1.0] * len(cluster_of) if weights is None else [float(w) for w in weights[layer]]
        for group in (g for g in together.values() if len(g) > 1):
            never = not any(share[e] for e in group)
            used = {str(e): 1.0 if never else share[e] for e in group}
            table.setdefault(str(layer), {}).update(dict.fromkeys(map(str, group), used))
    return parse({"name": "output", "mode": "other", "members": table})


INTERVENTION = Intervention(
    name="output",
    title="Replace expert outputs",
    does="replaces what the named experts return, before it is weighted: by zero, by their recorded mean, by a "
    "multiple, or by the (weighted mean) output of other experts for the same token",
    formula="o_e ← 0 | mean_e | s · o_e | Σ_j a_j · o_j, Σ_j a_j = 1, for e named",
    source="mean: MoNE, arXiv 2507.00390; other: HC-SMoE, arXiv 2410.08589, which merges weights where this merges "
    "outputs; zero: ablation that keeps the router's decision",
    shows="choice and weights of the baseline in the first layer edited; output norms of the named experts 0, of "
    "their mean, s times as large, or of the stand-in",
    named="experts",
    naming=("means", "members"),
    receives="to",
    options=(
        Option("mode", str, "zero", "what their output becomes", MODES),
        Option("factor", finite, 1.0, "s, what it is multiplied by (scale)"),
        Option("means", means, None, "table {layer: {expert: [numbers]}} of mean outputs, or a JSON file (mean)"),
        Option("to", int, None, "the expert that answers instead (other)", low=0),
        Option("members", members, None, "table {layer: {expert: {member: share}}}, or a JSON file (other)"),
    ),
    outputs=outputs,
    check=check,
    neutral={"mode": "scale", "factor": 1.0},
    notes="Without named experts it acts on those of the table. Several act in order, each on what the one before "
    "left. `other` runs the stand-ins as well. Where the experts have no place for an edit between their last product "
    "and the weighting, they run a second time, and recorded output norms are those before the edit.",
)
