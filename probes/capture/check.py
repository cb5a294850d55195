"""The self-test: eight tokens, once per model, decide what can be recorded of each layer, and say so in words.

It runs when something is first attached to a model and catches what no list of supported models can: replaced
forwards (hub kernels, MXFP4), models compiled earlier, another version of transformers, remote code.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import replace
from threading import get_ident
from typing import Any
from weakref import WeakKeyDictionary

import torch

from probes.capture.discovery import MoELayer, discover
from probes.capture.experts import SAME_SUM, implementation
from probes.capture.hidden import norms_around, residual_norm, watch_norms
from probes.capture.hooks import Hooks, lock_of
from probes.capture.inputs import Inputs
from probes.capture.notes import notes
from probes.capture.recompute import recompute
from probes.capture.report import LayerReport, Report
from probes.capture.stage import Member, aside, on_stage
from probes.capture.tap import INSIDE, OBSERVE, REWRITE, Session, Tap
from probes.capture.want import Want
from probes.capture.within import chain, device_of, language_model, roots
from probes.errors import ProbeError
from probes.families.initialised import note_of, words_of
from probes.families.layout import Point
from probes.routing import Router

TOKENS = 8
# Largest difference between the weighted sum of the slots and the container's output, relative to its largest value.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 4e-2, torch.float64: 1e-9}

_REPORTS: WeakKeyDictionary[Any, tuple[Any, Report]] = WeakKeyDictionary()


def self_test(model: Any, *, again: bool = False) -> Report:
    """Run eight tokens through `model` and report what can be recorded. Remembered per model.

    Of a wrapper, the model inside is tested. ProbeError if it has no routers, is in training mode, or is compiled.
    """
    with lock_of(model):
        _refuse_compiled(model)
        model = language_model(model)
        state = _state(model)
        known = _REPORTS.get(model)
        if known is not None and known[0] == state and not again:
            return known[1]
        with aside(model):  # no recording or steering around us is to see these tokens
            report = _test(model)
        _REPORTS[model] = (state, report)
        return report


def _state(model: Any) -> tuple[Any, ...]:
    """What a remembered report depends on: every module, the shape of its weights, and what the routers go by.

    A module that was replaced is seen although Python may give the new one the old one's address: the report itself
    keeps the modules it speaks of.
    """
    modules = tuple((name, id(module), *_outside(module)) for name, module in model.named_modules())
    layers = tuple(
        (found.module, found.num_experts, found.top_k, repr(found.parameters), *map(_numbers, _own(found)))
        for found in discover(model)
    )
    return (
        model.training,
        getattr(model, "dtype", None),
        experts_implementation(model),
        modules,
        layers,
        *note_of(model),
    )


def _outside(module: Any) -> tuple[Any, ...]:
    """Class, replaced `forward`, and the shape, type and place of each weight of a module itself."""
    weights = tuple((name, tuple(w.shape), w.dtype, w.device, type(w)) for name, w in _weights(module))
    return type(module), id(vars(module).get("forward")), weights


def _weights(module: Any) -> Iterator[tuple[str, torch.Tensor]]:
    kept = {**module._parameters, **module._buffers}
    yield from ((name, weight) for name, weight in kept.items() if weight is not None)


def _own(found: MoELayer) -> Iterator[Any]:
    """The modules of one layer that decide its routing."""
    yield from (m for m in (found.parts.router, found.parts.experts, found.parts.block) if m is not None)


def _numbers(module: Any) -> tuple[Any, ...]:
    """Plain settings of a module that anybody may have changed, but for what our own hooks put there."""
    kept = vars(module).items()
    return tuple((name, v) for name, v in kept if isinstance(v, int | float | str) and name not in Hooks.OWN_NAMES)


def experts_implementation(model: Any) -> str | None:
    """Which of transformers' experts implementations the model uses, if it can choose."""
    config = getattr(model, "config", None)
    text = config.get_text_config() if config is not None and hasattr(config, "get_text_config") else config
    return getattr(text, "_experts_implementation", None)


def _test(model: Any) -> Report:
    _refuse(model)
    layers = discover(model)
    if not layers:
        raise ProbeError(f"{_name(model)} has no mixture-of-experts layers")
    taps = _run(model, layers)
    reports = tuple(_judge(found, taps[found.layer]) if found.layer in taps else _refusal(found) for found in layers)
    reports = tuple(replace(report, words=(*report.words, *_random(report.found))) for report in reports)
    return Report(reports, tuple(notes(model, reports)))


def _random(found: MoELayer) -> tuple[str, ...]:
    return words_of(found.parts.router, found.parts.experts, found.shared)


def _refused(found: MoELayer) -> str:
    return found.family.limits.get("all", "") if found.family is not None else ""


def _refusal(found: MoELayer) -> LayerReport:
    router = _router(found, None, None, found.parameters.get("rule", ""))
    return LayerReport(found, router, logits=False, choice=False, outputs=False, words=(_refused(found),))


def _name(model: Any) -> str:
    return getattr(getattr(model, "config", None), "_name_or_path", "") or type(model).__name__


def _refuse(model: Any) -> None:
    if model.training:
        raise ProbeError(f"{_name(model)} is in training mode, where routers add noise; call model.eval() first")
    if any(isinstance(m, torch.nn.Dropout) and m.training and m.p > 0 for m in model.modules()):
        raise ProbeError(f"{_name(model)} has dropout in training mode (an adapter's?); call model.eval() first")
    if any(m._compiled_call_impl is not None for m in model.modules()):
        raise ProbeError(f"{_name(model)} is compiled; compiled code ignores hooks: load it without torch.compile")


def _refuse_compiled(model: Any) -> None:
    if any(hasattr(module, "_orig_mod") for module in chain(model)):
        raise ProbeError(f"{_name(model)} is compiled; compiled code ignores hooks: load it without torch.compile")


def _run(model: Any, layers: list[MoELayer]) -> dict[int, Tap]:
    examiner = _Examiner(model, layers)
    inputs = dummy_inputs(model)
    try:
        with on_stage(model, examiner), torch.no_grad():
            model(**inputs)
    except Exception as error:
        raise ProbeError(f"{_name(model)} {_blame(model, inputs)}: {type(error).__name__}: {error}") from error
    return examiner.taps


class _Examiner(Member):
    """Keeps all of one pass that the report depends on."""

    def __init__(self, model: Any, layers: list[MoELayer]) -> None:
        self.model = model
        self.taps: dict[int, Tap] = {}
        self._sessions: dict[int, Session] = {}
        self._points: list[Point] = []
        places = roots(model, layers)
        self.roots = [module for module, _, _ in places]
        for module, _, found in places:
            session = self._sessions[id(module)] = Session()
            for layer in (m for m in found if not _refused(m)):
                tap = self.taps[layer.layer] = Tap(Want(router_inputs=True), session, examine=True)
                self._points += layer.layout.points(layer.parts, tap) + watch_norms(norms_around(model, layer), tap)

    def points(self) -> list[Point]:
        return self._points

    def begin(self, root: Any, inputs: Inputs) -> None:
        self._sessions[id(root)].thread = get_ident()

    def end(self, root: Any, inputs: Inputs) -> None:
        self._sessions[id(root)].thread = None


def _blame(model: Any, inputs: dict[str, Any]) -> str:
    """Whose fault was it? The same pass without our hooks tells."""
    try:
        with torch.no_grad():
            model(**inputs)
    except Exception:  # noqa: BLE001 - the first error is the one to report
        return f"does not run on {TOKENS} ordinary tokens"
    return "cannot be recorded, its modules do not pass what they look like passing"


def dummy_inputs(model: Any, tokens: int = TOKENS, batch: int = 1) -> dict[str, Any]:
    """Different ordinary tokens: no padding, no placeholder of an image."""
    model = language_model(model)
    config = getattr(model, "config", None)
    special = set(_special(config)) if hasattr(config, "get_text_config") else set()
    vocabulary = model.get_input_embeddings().num_embeddings
    ordinary = [t for t in range(vocabulary) if t not in special][: 4 * tokens * batch]
    ids = torch.tensor([ordinary[(3 * i) % len(ordinary)] for i in range(tokens * batch)]).view(batch, tokens)
    ids = ids.to(device_of(model))
    if getattr(config, "is_encoder_decoder", False):
        return {"input_ids": ids, "decoder_input_ids": ids}
    if "moe_mm_token_type_ids" in inspect.signature(model.forward).parameters:
        # Half of the tokens pass for an image's, so that the experts for those run too.
        return {"input_ids": ids, "moe_mm_token_type_ids": (torch.arange(tokens) % 2).expand(batch, -1).to(ids.device)}
    return {"input_ids": ids}


def _special(config: Any) -> Iterator[int]:
    for part in {id(c): c for c in (config, config.get_text_config())}.values():
        for name in dir(part):
            if name.endswith(("_token_id", "_token_index")):
                value = getattr(part, name, None)
                yield from value if isinstance(value, (list, tuple)) else [value]  # type: ignore[misc]


def _judge(found: MoELayer, tap: Tap) -> LayerReport:
    kept = {name: values[-1] for name, values in tap.kept.items()}
    logits, ids, weights = kept.get("logits"), kept.get("experts"), kept.get("weights")
    if found.family is None and logits is not None and _probabilities(logits):
        logits, words = None, ["its router returns probabilities: no logits"]
    else:
        words = []
    words += list(_missing(found, tap, logits, ids))
    again = recompute(found, logits, ids, weights)
    words += [again.words] if again.words else []
    mode = _mode(kept, words, found)
    return LayerReport(
        replace(found, parameters=again.parameters),
        _router(found, logits, ids, again.parameters.get("rule", "")),
        logits=logits is not None,
        choice=ids is not None,
        outputs=bool(mode),
        recomputed=again.what,
        mode=mode or OBSERVE,
        padded=tap.padded,
        copy=tap.changed,
        norm=residual_norm(tap),
        words=tuple(words),
    )


def _missing(found: MoELayer, tap: Tap, logits: Any, ids: Any) -> Iterator[str]:
    if logits is None:
        yield "its router did not run, or was replaced: no logits"
    if ids is None:
        yield "its experts did not run, or were replaced: no ids, no weights, no outputs"
    elif tap.trouble:
        yield f"its experts cannot be run one by one ({tap.trouble}): no outputs"


def _probabilities(rows: torch.Tensor) -> bool:
    sums = rows.float().sum(dim=-1)
    return bool((rows >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-2)


def _mode(kept: dict[str, Any], words: list[str], found: MoELayer) -> str:
    """How this layer's expert outputs can be had; "" when their weighted sum is not what the experts returned."""
    container = kept.get("container")
    if container is None or "combined" not in kept:
        return ""
    if "seen_inside" in kept and _distance(container, kept["seen_inside"]) <= 1:
        return INSIDE
    if _distance(container, kept["combined"]) > 1:
        worst = _difference(container, kept["combined"])
        words.append(f"weighted expert outputs differ from the experts' sum by {worst:.2g}: no outputs")
        return ""
    exact = torch.equal(container.reshape(kept["combined"].shape), kept["combined"])
    return REWRITE if exact and implementation(found.parts.experts) in SAME_SUM else OBSERVE


def _difference(first: torch.Tensor, second: torch.Tensor) -> float:
    return float((first.reshape(second.shape).float() - second.float()).abs().max())


def _distance(container: torch.Tensor, sums: torch.Tensor) -> float:
    """Largest difference in units of what rounding can explain; NaN counts as infinitely far."""
    limit = TOLERANCE.get(container.dtype, 1e-2) * max(1e-6, float(container.abs().max()))
    distance = _difference(container, sums) / limit
    return distance if distance == distance else float("inf")


def _router(found: MoELayer, logits: Any, ids: Any, rule: str) -> Router:
    return Router(
        layer=found.layer,
        module=found.module,
        num_experts=found.layout.num_experts(found.parts, logits) if logits is not None else found.num_experts,
        top_k=int(ids.shape[-1]) if ids is not None else found.top_k,
        gating=rule,
        shared_experts=found.shared_experts,
        stream=found.stream,
    )


__all__ = ["dummy_inputs", "experts_implementation", "self_test"]
