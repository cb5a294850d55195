"""Which family can carry which intervention? Tried on the family's tiny model, all of the catalogue.

An intervention counts as carried when a layer accepts it, the model's output changes under it, what it says about the
recorded routing holds, and afterwards the model gives its plain output bit for bit, with none of our hooks left.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from probes.capture.check import dummy_inputs, self_test
from probes.capture.recorder import capture
from probes.capture.want import Want
from probes.errors import ProbeError
from probes.families import Family
from probes.families.tiny import tiny_model
from probes.interventions import Intervention, Scope, Spec, interventions
from probes.interventions.plan import refusal
from probes.interventions.router_code import learn
from probes.routing import Routing
from probes.steering import steer

YES, PARTLY, REFUSED, FAILS = "yes", "partly", "no", "FAILS"
WANT = Want(norms=False)


@dataclass(frozen=True)
class Trial:
    """How one intervention went in one family. `words`: why it was refused, in which layers, or what went wrong."""

    family: str
    intervention: str
    outcome: str
    words: str = ""


def try_family(family: Family) -> list[Trial]:
    """Every intervention of the catalogue on the family's tiny model; never raises."""
    import transformers

    transformers.logging.set_verbosity_error()  # tiny configs are odd on purpose; its advice on them is noise
    try:
        return list(_try_all(family))
    except ProbeError as error:
        return [Trial(family.name, name, REFUSED, str(error)) for name in interventions()]
    except Exception as error:  # noqa: BLE001 - the table says what is wrong with a family; it does not stop at it
        text = str(error).strip().splitlines() or [""]
        return [Trial(family.name, name, FAILS, f"{type(error).__name__}: {text[0]}") for name in interventions()]


@torch.no_grad()
def _try_all(family: Family) -> Iterator[Trial]:
    model = tiny_model(family)
    self_test(model)
    inputs = dummy_inputs(model, tokens=6, batch=2)
    plain, before = _run(model, inputs)
    for declared in interventions().values():
        yield _try(family.name, declared, model, inputs, plain, before)


def _run(model: Any, inputs: dict[str, Any]) -> tuple[list[torch.Tensor], dict[int, Routing]]:
    with capture(model, WANT) as recorder:
        output = model(**inputs)
    routing = {layer: r for forward in recorder.take() for layer, r in forward.routing.items()}
    return [output[n] for n in ("logits", "last_hidden_state") if getattr(output, n, None) is not None], routing


def _try(
    name: str, declared: Intervention, model: Any, inputs: Any, plain: list[torch.Tensor], before: dict[int, Routing]
) -> Trial:
    layers, reasons = _carrying(declared, model)
    if not layers:
        return Trial(name, declared.name, REFUSED, reasons[0])
    spec = example(declared, {layer: before[layer] for layer in layers})
    try:
        with steer(model, [spec]):
            steered, after = _run(model, inputs)
        wrong = [*_unlike(declared, spec, before, after), *_same(plain, steered, declared, before)]
    except ProbeError as error:
        return Trial(name, declared.name, REFUSED, str(error))
    except Exception as error:  # noqa: BLE001 - as above
        wrong = [f"{type(error).__name__}: {error}"]
    wrong += _left(model, inputs, plain)
    if wrong:
        return Trial(name, declared.name, FAILS, "; ".join(wrong))
    if reasons:
        return Trial(name, declared.name, PARTLY, f"layers {', '.join(map(str, layers))} only: elsewhere {reasons[0]}")
    return Trial(name, declared.name, YES)


def _carrying(declared: Intervention, model: Any) -> tuple[list[int], list[str]]:
    """The layers that can carry it, and why the others cannot."""
    report = self_test(model)
    calls = learn(model, report)
    usable = [r for r in report.layers if r.choice or r.logits]
    reasons = {r.layer: refusal(declared, r, calls[r.layer]) for r in usable}
    layers = [layer for layer, reason in reasons.items() if not reason]
    return layers, list(dict.fromkeys(reason for reason in reasons.values() if reason))


def example(declared: Intervention, routing: dict[int, Routing]) -> Spec:
    """The intervention with its example's options, naming an expert of each layer that was chosen."""
    options = {option.name: option.check(declared.example.get(option.name)) for option in declared.options}
    experts = [(layer, expert) for layer, r in routing.items() for expert in _named(declared, r)]
    return Spec(declared.name, options, Scope(layers=tuple(routing), experts=tuple(experts) if declared.named else ()))


def _named(declared: Intervention, routing: Routing) -> list[int]:
    """An expert that was chosen; or all but that one, for what keeps the experts it names."""
    chosen = int(routing.experts[routing.experts >= 0].max())
    num_experts = chosen + 1 if routing.logits is None else routing.logits.shape[1]
    return [e for e in range(num_experts) if e != chosen] if declared.keeps else [chosen]


def _unlike(declared: Intervention, spec: Spec, before: dict[int, Routing], after: dict[int, Routing]) -> Iterator[str]:
    """What the recorded routing should show and does not."""
    for layer, expert in spec.scope.experts:
        was, now = before[layer or 0], after[layer or 0]
        seen = (now.experts >= 0).any(axis=1)
        hit = now.experts == expert
        if declared.removes and hit.any():
            yield f"layer {layer}: expert {expert} was chosen {int(hit.sum())} times"
        if declared.name == "force" and not hit[seen].any(axis=1).all():
            yield f"layer {layer}: expert {expert} was not always chosen"
        if declared.name == "zero" and (now.weights[hit] != 0).any():
            yield f"layer {layer}: expert {expert} kept a weight"
        if declared.name == "bias" and was.logits is not None:
            yield from _shifted(was, now, expert, spec.options["delta"])


def _shifted(was: Routing, now: Routing, expert: int, delta: float) -> Iterator[str]:
    others = np.arange(was.logits.shape[1]) != expert
    alike = (was.logits[:, others] == now.logits[:, others]).all(axis=1)  # tokens that no edit has reached before
    if not np.allclose(now.logits[alike, expert], was.logits[alike, expert] + delta, atol=1e-4):
        yield f"the logits of expert {expert} are not {delta:g} above those of the baseline"


def _same(
    plain: list[torch.Tensor], steered: list[torch.Tensor], declared: Intervention, before: dict[int, Routing]
) -> Iterator[str]:
    single = all(r.experts.shape[1] == 1 for r in before.values())
    if single and declared.drops:
        return  # nothing can be dropped of one slot
    if all(torch.equal(a, b) for a, b in zip(plain, steered, strict=True)):
        yield "the output is what it was without it"


def _left(model: Any, inputs: Any, plain: list[torch.Tensor]) -> list[str]:
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    hooks += sum("post_expert_norm" in vars(m) for m in model.modules())
    again, _ = _run(model, inputs)
    wrong = [f"{hooks} hooks left behind"] if hooks else []
    return wrong + (
        [] if all(torch.equal(a, b) for a, b in zip(plain, again, strict=True)) else ["the model is not what it was"]
    )
