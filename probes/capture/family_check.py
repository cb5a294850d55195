"""Does what we say about a family hold? Builds its tiny model, records it, and verifies everything by running it.

Verified, each in float32 and bfloat16: the recorded output is bit-identical to the plain one; the recorded choice is
recomputed from the *stored* logits; norms and maxima are those of the recorded output vectors; weighted expert outputs
add up to what the experts returned (self-test); our hooks are gone afterwards, also after an exception inside the pass
and after a registration that failed half-way; a stranger's hook stays and is still called. And what transformers' own
`output_router_logits` gives for the same input.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from probes.capture.check import dummy_inputs, self_test
from probes.capture.forward import Forward
from probes.capture.hooks import Hooks
from probes.capture.recompute import compare
from probes.capture.recorder import Recorder, capture
from probes.capture.report import Report
from probes.capture.want import Want
from probes.errors import ProbeError
from probes.families import Family, rules
from probes.families.layout import Point
from probes.families.tiny import tiny_model

DTYPES = ("float32", "bfloat16")
# family -> what transformers calls its configuration, where that is another word
LISTED = {"nllb_moe": "nllb-moe"}
EVERYTHING = Want(outputs=True, moments=True, router_inputs=True)


@dataclass(frozen=True)
class FamilyCheck:
    """What was found for one family. `failures` is empty when all that is promised holds."""

    family: Family
    captures: str  # what is recorded of every layer, or why nothing is
    recomputed: str  # what the rule gets right from stored logits: "ids and weights", "ids", "mixed (...)" or ""
    identical: dict[str, bool]  # dtype -> is the recorded output bit for bit the plain one?
    twice: bool  # are expert outputs had by a second run of the experts?
    official: str  # what output_router_logits gives
    hidden: bool  # is the residual stream found?
    failures: tuple[str, ...]

    @property
    def loaded(self) -> str:
        """The class that a checkpoint of the family is loaded as."""
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING

        from probes.families.tiny import tiny_config
        from probes.model_class import class_name

        name = LISTED.get(self.family.name, self.family.name)
        return class_name(CONFIG_MAPPING[name] if name in CONFIG_MAPPING else type(tiny_config(self.family)))

    @property
    def complete(self) -> bool:
        """Logits, ids, weights and norms are recorded."""
        return self.captures == "logits, ids, weights, norms"


def check_family(family: Family, dtypes: tuple[str, ...] = DTYPES) -> FamilyCheck:
    """Build, record and verify one family; never raises for a family that does not do what it should."""
    import transformers

    transformers.logging.set_verbosity_error()  # tiny configs are odd on purpose; its advice on them is noise
    try:
        return _check_refusal(family) if "all" in family.limits else _check_all(family, dtypes)
    except ProbeError as error:  # this version of transformers has no such family, or nothing can be recorded
        return FamilyCheck(family, "nothing", "", {}, False, "-", False, (str(error),))
    except Exception as error:  # noqa: BLE001 - the table says what is wrong with a family; it does not stop at it
        text = str(error).strip().splitlines() or [""]
        return FamilyCheck(family, "nothing", "", {}, False, "-", False, (f"{type(error).__name__}: {text[0]}",))


def _check_all(family: Family, dtypes: tuple[str, ...]) -> FamilyCheck:
    found = [_check(family, dtype) for dtype in dtypes]
    first = found[0]
    return FamilyCheck(
        family,
        first.captures,
        first.recomputed,
        {dtype: f.identical for dtype, f in zip(dtypes, found, strict=True)},
        first.twice,
        first.official,
        first.hidden,
        tuple(f"{dtype}: {text}" for dtype, f in zip(dtypes, found, strict=True) for text in f.failures),
    )


@dataclass(frozen=True)
class _Found:
    captures: str
    recomputed: str
    identical: bool
    twice: bool
    official: str
    hidden: bool
    failures: list[str]


def _check_refusal(family: Family) -> FamilyCheck:
    """A refused family is refused for the reason given, before anything is hooked."""
    model = tiny_model(family)
    failures = []
    try:
        with capture(model):
            failures.append("was not refused")
    except ProbeError as error:
        if family.limits["all"] not in str(error):
            failures.append(f"refused for another reason: {error}")
    failures += _left_behind(model, 0)
    return FamilyCheck(family, "nothing", "", {}, False, _official(model, _inputs(model), []), False, tuple(failures))


@torch.no_grad()
def _check(family: Family, dtype: str) -> _Found:
    model = tiny_model(family, dtype)
    inputs = _inputs(model)
    plain = _outputs(model(**inputs))
    hidden = all(r.norm is not None for r in self_test(model).layers)
    with capture(model, replace(EVERYTHING, hidden=hidden)) as recorder:
        recorded = _outputs(model(**inputs))
        forwards = recorder.take()
    failures = [*_complete(recorder.report, forwards), *_numbers(forwards)]
    recomputed = _recompute(recorder, forwards)
    promised = {layer: rules()[p["rule"]].recomputes for layer, p in recorder.gating_parameters.items()}
    failures += _promised(promised, recomputed)
    identical = all(torch.equal(a, b) for a, b in zip(plain, recorded, strict=True))
    failures += [] if identical else [f"the recorded output differs by {_difference(plain, recorded):.2g}"]
    failures += _hooks(model, inputs, plain)
    official = _official(model, inputs, forwards)
    failures += _expected(family, official)
    reports = recorder.report.layers
    return _Found(
        captures=_captures(recorder.report),
        recomputed=_summary(recomputed),
        identical=identical,
        twice=any(r.twice for r in reports),
        official=official,
        hidden=hidden,
        failures=failures,
    )


def _inputs(model: Any) -> dict[str, Any]:
    return dummy_inputs(model, tokens=6, batch=2)


def _outputs(output: Any) -> list[torch.Tensor]:
    """The tensors a model's output is about: its logits or its last hidden states."""
    return [output[n] for n in ("logits", "last_hidden_state") if getattr(output, n, None) is not None]


def _difference(first: list[torch.Tensor], second: list[torch.Tensor]) -> float:
    return max(float((a.float() - b.float()).abs().max()) for a, b in zip(first, second, strict=True))


def _captures(report: Report) -> str:
    return " | ".join(sorted({r.capability.replace("outputs", "norms") for r in report.layers}))


def _complete(report: Report, forwards: list[Forward]) -> Iterator[str]:
    """Every layer is recorded, with nothing missing but the rows that went elsewhere."""
    for r in report.layers:
        for word in r.words:
            yield f"layer {r.layer} ({r.router.module}): {word}"
    recorded = {layer for f in forwards for layer in f.routing}
    for r in report.layers:
        if r.layer not in recorded:
            yield f"layer {r.layer} was not recorded"


def _numbers(forwards: list[Forward]) -> Iterator[str]:
    """Norms and maxima are those of the recorded vectors."""
    for forward in forwards:
        for layer, r in forward.routing.items():
            if r.outputs is None:
                continue
            for name, values, again in (
                ("norm", r.output_norm, np.linalg.norm(r.outputs, axis=-1)),
                ("maximum", r.output_absmax, np.abs(r.outputs).max(axis=-1)),
            ):
                if not np.allclose(values, again, rtol=1e-5, atol=1e-6, equal_nan=True):
                    yield f"layer {layer}: the {name} is not that of the output"


def _recompute(recorder: Recorder, forwards: list[Forward]) -> dict[int, str]:
    """layer -> what its rule gets right from the logits as they were stored."""
    precision = next(recorder.model.parameters()).dtype
    return {
        layer: _recompute_layer(recorder.gating_parameters[layer], r, precision)
        for forward in forwards
        for layer, r in forward.routing.items()
    }


def _recompute_layer(parameters: dict[str, Any], routing: Any, precision: torch.dtype) -> str:
    if routing.logits is None or routing.weights is None:
        return ""
    seen = ~np.isnan(routing.weights).any(axis=1)
    ids = torch.from_numpy(routing.experts[seen])
    weights = torch.from_numpy(routing.weights[seen]).to(precision)
    rule = rules()[parameters["rule"]]
    what = compare(rule, {**parameters, "ids": ids}, routing.logits[seen], ids, weights)
    return rule.recomputes if rule.recomputes == "weights" and what == "ids and weights" else what


def _promised(promised: dict[int, str], recomputed: dict[int, str]) -> Iterator[str]:
    for layer, what in recomputed.items():
        if what not in ("ids and weights", promised[layer]):
            yield f"layer {layer}: from its logits only {what or 'nothing'} is recomputed"


def _summary(recomputed: dict[int, str]) -> str:
    return " | ".join(sorted({what or "nothing" for what in recomputed.values()}))


def _hooks(model: Any, inputs: dict[str, Any], plain: list[torch.Tensor]) -> Iterator[str]:
    """Ours are gone after an exception and after a failed attach; a stranger's stays and is called."""
    calls: list[int] = []
    stranger = next(m for n, m in model.named_modules() if n.endswith(("gate", "router", "router_gate")))
    handle = stranger.register_forward_hook(lambda *_: calls.append(1))
    try:
        with capture(model, EVERYTHING) as recorder:
            model(**inputs)
            try:
                with Hooks([*recorder.points(), Point(stranger, "sideways", print)]):
                    yield "a hook that cannot be registered was"
            except ValueError:
                pass
        before = len(calls)
        yield from _raise_inside(model, inputs)
        yield from [] if before and len(calls) > before else ["a stranger's hook was not called"]
        yield from _left_behind(model, 1)
    finally:
        handle.remove()
    yield from [] if _difference(plain, _outputs(model(**inputs))) == 0 else ["the model is not what it was"]


class _Stop(Exception):
    """Raised inside a pass on purpose."""


def _raise_inside(model: Any, inputs: dict[str, Any]) -> Iterator[str]:
    def stop(*_: Any) -> None:
        raise _Stop

    last = [m for m in model.modules() if "norm" in type(m).__name__.lower()][-1]
    handle = last.register_forward_hook(stop)
    try:
        with capture(model, EVERYTHING):
            model(**inputs)
        yield "an exception inside the pass was swallowed"
    except _Stop:
        pass
    finally:
        handle.remove()


def _left_behind(model: Any, strangers: int) -> list[str]:
    count = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    count += sum("post_expert_norm" in vars(m) for m in model.modules())
    return [] if count == strangers else [f"{count - strangers} hooks left behind"]


def _official(model: Any, inputs: dict[str, Any], forwards: list[Forward]) -> str:
    """What `output_router_logits=True` gives: "yes", "dropped", or how it differs from the logits recorded."""
    try:
        output = model(**inputs, output_router_logits=True)
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        return f"fails ({type(error).__name__})"
    given = [getattr(output, n, None) for n in ("router_logits", "encoder_router_logits", "decoder_router_logits")]
    tensors = [t for g in given if g is not None for t in g if isinstance(t, torch.Tensor)]
    if not tensors:
        return "dropped"
    layers = [r.logits for f in forwards for _, r in sorted(f.routing.items())]
    if len(tensors) != len(layers):
        return f"{len(tensors)} tensors for {len(layers)} routers"
    return "yes" if all(_same(t, logits) for t, logits in zip(tensors, layers, strict=True)) else _how(tensors)


def _expected(family: Family, official: str) -> list[str]:
    """Is `output_router_logits` ignored in exactly the versions the family's record says?"""
    import transformers

    def number(version: str) -> tuple[int, ...]:
        return tuple(int(n) for n in version.split(".")[:2])

    ignored = number(transformers.__version__) < number(family.official_since or "0.0")
    if ignored == (official == "dropped"):
        return []
    return [f"output_router_logits in transformers {transformers.__version__}: {official}, against its record"]


def _same(tensor: torch.Tensor, logits: Any) -> bool:
    from probes.families.base import as_tensor

    mine = as_tensor(logits).float()
    theirs = tensor.float().reshape(-1, tensor.shape[-1])
    return mine.shape == theirs.shape and torch.allclose(mine, theirs, rtol=1e-4, atol=1e-4, equal_nan=True)


def _how(tensors: list[torch.Tensor]) -> str:
    rows = torch.cat([t.float().reshape(-1, t.shape[-1]) for t in tensors])
    sums = rows.sum(dim=-1)
    probabilities = bool((rows >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-2)
    return "probabilities" if probabilities else "other numbers"
