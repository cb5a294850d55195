"""From specs to what is done where: checked against the model before it runs, so that a mistake is one clear line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch

from probes.capture.check import LayerReport, Report
from probes.errors import UsageError
from probes.families.parameters import scoring_of
from probes.interventions import intervention
from probes.interventions.base import Intervention
from probes.interventions.router_code import Calls
from probes.interventions.site import Site
from probes.interventions.spec import Spec
from probes.interventions.values import experts_at, pairs_in
from probes.scores import UNKNOWN


@dataclass(frozen=True)
class Edit:
    """One intervention at one layer."""

    declared: Intervention
    site: Site

    @property
    def options(self) -> Any:
        return self.site.spec.options

    def at(self, phase: str) -> bool:
        return self.site.spec.scope.phase in ("all", phase)


def plan(
    specs: Iterable[Spec], report: Report, calls: dict[int, Calls], tokenizer: Any = None
) -> dict[int, tuple[Edit, ...]]:
    """layer -> its edits in order. UsageError for what does not fit the model, before anything runs."""
    usable = {r.layer: r for r in report.layers if r.choice or r.logits}
    edits: dict[int, list[Edit]] = {}
    for spec in specs:
        spec = with_token_ids(spec, tokenizer)
        declared = intervention(spec.name)
        layers = _layers(spec, declared, usable)
        generator = torch.Generator().manual_seed(spec.scope.seed)
        for layer in layers:
            found = usable[layer]
            site = _site(spec, found, tuple(layers), generator)
            _check(declared, site, found, calls[layer])
            edits.setdefault(layer, []).append(Edit(declared, site))
    for layer, some in edits.items():
        _enough_left(some, usable[layer])
    return {layer: tuple(some) for layer, some in edits.items()}


def is_neutral(spec: Spec) -> bool:
    """Do its options make it change nothing?"""
    neutral = intervention(spec.name).neutral
    return neutral is not None and all(spec.options.get(name) == value for name, value in neutral.items())


def widths(edits: dict[int, tuple[Edit, ...]]) -> dict[int, int]:
    """layer -> the most experts a token can get there."""
    wide: dict[int, int] = {}
    for layer, some in edits.items():
        slots = some[0].site.top_k
        for edit in some:
            slots = edit.declared.width(edit.options, slots, edit.site.num_experts)
        wide[layer] = slots
    return wide


def with_token_ids(spec: Spec, tokenizer: Any) -> Spec:
    """Tokens given as text as the ids of the tokens that read so."""
    texts = [token for token in spec.scope.tokens if isinstance(token, str)]
    if not texts:
        return spec
    if tokenizer is None:
        raise UsageError(f"{spec.name}: the token {texts[0]!r} is given as text; that needs the tokenizer, or its id")
    ids = [i for token in spec.scope.tokens for i in ([token] if isinstance(token, int) else _ids(token, tokenizer))]
    return replace(spec, scope=replace(spec.scope, tokens=tuple(dict.fromkeys(ids))))


def _ids(text: str, tokenizer: Any) -> list[int]:
    ids = [i for i in (tokenizer.convert_tokens_to_ids(text),) if i is not None and i != tokenizer.unk_token_id]
    for written in (text, " " + text):
        encoded = tokenizer.encode(written, add_special_tokens=False)
        ids += encoded if len(encoded) == 1 else []
    if not ids:
        raise UsageError(f"{text!r} is not one token of this model's vocabulary; give token ids instead")
    return ids


def _layers(spec: Spec, declared: Intervention, usable: dict[int, LayerReport]) -> list[int]:
    """The layers the spec acts on, in order."""
    scope = spec.scope
    pairs = _named(spec, declared)
    named = sorted({layer for layer, _ in pairs if layer is not None})
    for layer in (*(scope.layers or ()), *named):
        if layer not in usable:
            raise UsageError(f"{spec.name}: layer {layer} has no router; layers that have: {_ranges(usable)}")
    if scope.experts and not declared.named:
        raise UsageError(f"{spec.name} acts on all experts of a layer; it takes no experts")
    if declared.named == "experts" and not pairs:
        raise UsageError(f"{spec.name}: no experts are named, as in '{spec.name}:layer=3,expert=7'")
    if declared.naming and not pairs and not declared.named:
        raise UsageError(f"{spec.name}: no experts are named, as in '{spec.name}:{declared.naming[0]}=3.7+5.1'")
    layers = sorted(usable if scope.layers is None else scope.layers)
    if pairs:
        layers = [layer for layer in layers if experts_at(pairs, layer)]
    if not layers:
        raise UsageError(f"{spec.name}: the scope is empty: no expert is named in layers {_ranges(scope.layers or ())}")
    return layers


def _named(spec: Spec, declared: Intervention) -> tuple[tuple[int | None, int], ...]:
    """(layer, expert) pairs: those of the scope, or else those of the options that name experts."""
    pairs = (pair for name in declared.naming for pair in pairs_in(spec.options.get(name)))
    return spec.scope.experts or tuple(dict.fromkeys(pairs))


def _ranges(layers: Iterable[int]) -> str:
    numbers = sorted(layers)
    if len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]}-{numbers[-1]}"
    return ", ".join(map(str, numbers))


def _site(spec: Spec, report: LayerReport, layers: tuple[int, ...], generator: Any) -> Site:
    router = report.router
    named = experts_at(_named(spec, intervention(spec.name)), report.layer)
    for expert in named:
        if expert >= router.num_experts:
            raise UsageError(
                f"{spec.name}: layer {report.layer} has experts 0 to {router.num_experts - 1}, not {expert}"
            )
    scoring = scoring_of(report.found.parameters) or UNKNOWN
    if report.found.parameters.get("weigh") == "sigmoid":
        scoring = "sigmoid"
    return Site(spec, report.layer, router.num_experts, router.top_k, layers, scoring, generator, named)


def _check(declared: Intervention, site: Site, report: LayerReport, calls: Calls) -> None:
    reason = refusal(declared, report, calls, site.spec)
    if reason:
        raise UsageError(f"{declared.name} cannot be carried out in layer {report.layer}: {reason}")
    if declared.check is not None:
        told = {**site.spec.options, "named": site.named, "layer": site.layer}
        try:
            declared.check(told, site.top_k, site.num_experts)
        except UsageError as error:
            raise UsageError(f"{declared.name}, layer {report.layer}: {error}") from None


def refusal(declared: Intervention, report: LayerReport, calls: Calls, spec: Spec | None = None) -> str:
    """Why this layer cannot carry the intervention; "" if it can."""
    stages = [stage for stage in declared.stages if stage not in declared.optional]
    if "logits" in stages and calls.logits is None:
        return "the place where its router makes the logits was not found"
    if ("key" in stages or "k" in stages) and calls.topk is None:
        return "its choice is not made by a top-k of its scores"
    if (declared.removes or declared.keeps) and report.recomputed == "weights":
        return "the token's id decides who is chosen there, not the logits"
    if "k" in stages and report.router.stream == "attention":
        return "its attention is built for the number of experts it has"
    if ("assign" in stages or "outputs" in stages) and not (report.found.layout.takes_choice and report.choice):
        return "its experts are not handed ids and weights that could be edited"
    if "outputs" in stages and not report.outputs:
        return "its experts' own outputs cannot be had"
    if "logits" in declared.needs and not report.logits:
        return "its router gives no logits"
    if "scores" in declared.needs and scoring_of(report.found.parameters) is None:
        return "how its router makes scores of its logits is not known"
    if "router" in declared.needs and (calls.topk is None or calls.module is not report.found.parts.router):
        return "its router cannot be asked for the weights of other experts"
    if declared.per_pass and spec is not None and spec.scope.by_token:
        return "it acts on whole passes: positions, last, tokens, sequences and probability cannot limit it"
    return ""


def _enough_left(edits: list[Edit], report: LayerReport) -> None:
    """At least k experts must be left to choose, in every choice of groups."""
    site = edits[-1].site
    gone = {e for edit in edits for e in _gone(edit)}
    hidden = sum(edit.declared.hides(edit.options) for edit in edits)
    if not gone and not hidden:
        return
    slots = site.top_k
    for edit in edits:
        slots = edit.declared.k(edit.site, edit.options, slots) if edit.declared.k else slots
    left = _least_left(gone, site.num_experts, report.found.parameters) - hidden
    if left < slots:
        names = ", ".join(dict.fromkeys(edit.declared.name for edit in edits if _limits(edit)))
        raise UsageError(
            f"{names}: layer {site.layer} would have {max(left, 0)} of {site.num_experts} experts left to choose, "
            f"and a token needs {slots}"
        )


def _gone(edit: Edit) -> set[int]:
    """Experts that cannot be chosen any more."""
    if edit.declared.keeps:
        return set(range(edit.site.num_experts)) - set(edit.site.named)
    return set(edit.site.named) if edit.declared.removes else set()


def _limits(edit: Edit) -> bool:
    return bool(_gone(edit)) or edit.declared.hides(edit.options) > 0


def _least_left(gone: set[int], num_experts: int, parameters: dict[str, Any]) -> int:
    groups, kept = parameters.get("groups") or 1, parameters.get("topk_group") or 1
    if groups <= 1 or num_experts % groups:
        return num_experts - len(gone)
    size = num_experts // groups
    left = sorted(size - sum(1 for e in gone if e // size == g) for g in range(groups))
    return sum(left[:kept])


__all__ = ["Edit", "is_neutral", "plan", "refusal", "widths"]
