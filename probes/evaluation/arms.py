"""What is compared: an arm is a model under some interventions; its controls do the same to experts drawn at random.

An intervention that names experts gets controls that name others of the same load, layer by layer, or as many others
(`probes.evaluation.drawing`); a keep-list, as many drawn from all. Any other gets `random` choice of the same scope:
what remains of a model whose router has no say. A decoding strategy by itself has no such control; it is compared with
plain decoding.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probes.errors import UsageError
from probes.interventions import Spec, intervention
from probes.interventions.values import experts_at, pairs_in
from probes.recipes import JOINED, is_recipe, specs_of

if TYPE_CHECKING:
    from probes.interventions.decoding import Plan

BASELINE = "baseline"
FILES = (".yaml", ".yml", ".json")


@dataclass(frozen=True)
class Arm:
    """One way to run the model. `control_of` names the arm it is a control of, `seed` which of its controls it is.

    task  the only task it is asked, since a control has the same load there; None for all
    """

    name: str
    specs: tuple[Spec, ...] = ()
    strategy: Plan | None = None
    control_of: str | None = None
    seed: int | None = None
    task: str | None = None

    def asks(self, task: str) -> bool:
        """Is it run on the items of this task?"""
        return self.task in (None, task)

    def as_list(self) -> list[dict[str, Any]]:
        """What it does, JSON-able: interventions in order, then the decoding strategy."""
        decoding = [] if self.strategy is None else [self.strategy.as_dict()]
        return [*(spec.as_dict() for spec in self.specs), *decoding]

    @property
    def key(self) -> str:
        """What it does, as text: the same for arms that do the same."""
        return json.dumps(self.as_list(), sort_keys=True, ensure_ascii=False, default=str)


def arms_of(given: Any, trace: Any = None, run_id: int | None = None) -> list[Arm]:
    """One arm per entry: interventions, recipes and decoding strategies.

    `A + B` (blanks around the plus) and files of several interventions are one arm together. trace, run_id: the
    recording that recipes among them ask (see `probes.recipes`).
    """
    entries = given if isinstance(given, (list, tuple)) else [given]
    arms = [arm_of(one, trace, run_id) for one in entries]
    names = [arm.name for arm in arms]
    for name in names:
        if names.count(name) > 1 or name == BASELINE:
            raise UsageError(f"the intervention {name} is given twice" if name != BASELINE else f"no arm is {name!r}")
    return arms


def arm_of(given: Any, trace: Any = None, run_id: int | None = None) -> Arm:
    """An arm of one entry, as text, a file, a dict, a Spec, a decoding Plan, or a sequence of these."""
    if isinstance(given, Arm):
        return given
    parts = _parts(given)
    plans = [plan for part in parts if (plan := _strategy(part)) is not None]
    specs = tuple(s for part in parts if _strategy(part) is None for s in specs_of(part, trace, run_id))
    if len(plans) > 1:
        raise UsageError(f"one decoding strategy at a time: {plans[0]} and {plans[1]} cannot go together")
    if not specs and not plans:
        raise UsageError("an empty list of interventions would be the baseline itself")
    return Arm(_name(given, [*specs, *plans]), specs, plans[0] if plans else None)


def _parts(given: Any) -> list[Any]:
    if isinstance(given, (list, tuple)):
        return [part for one in given for part in _parts(one)]
    split = isinstance(given, str) and not given.lstrip().startswith(("{", "["))
    return [part.strip() for part in JOINED.split(given)] if split else [given]


def _strategy(given: Any) -> Plan | None:
    """The decoding strategy that this is, if it is one."""
    from probes.interventions.decoding import Plan, parse_strategy, strategies

    if isinstance(given, Plan):
        return given
    name = (
        given.get("name") if isinstance(given, Mapping) else given.partition(":")[0] if isinstance(given, str) else ""
    )
    return parse_strategy(given) if name in strategies() else None


def _name(given: Any, acting: Sequence[Any]) -> str:
    """The stem of a file, a recipe as it was written, and any other by what it does."""
    if isinstance(given, Path) or (isinstance(given, str) and given.endswith(FILES)):
        return Path(given).stem
    recipe = isinstance(given, str) and any(is_recipe(part) for part in JOINED.split(given))
    return given if recipe else " + ".join(map(str, acting))


def controls(arm: Arm, routers: Mapping[int, int], count: int, seed: int = 0) -> list[Arm]:
    """Up to `count` different controls that name as many other experts; routers: layer -> number of experts.

    `probes.evaluation.drawing.drawn` also matches what the experts carry.
    """
    from probes.evaluation.drawing import drawn

    return drawn(arm, routers, count, seed).arms


def experts_in(spec: Spec, routers: Mapping[int, int]) -> dict[int, tuple[int, ...]]:
    """layer -> the experts that a spec names there, in its scope or in its options."""
    layers = routers if spec.scope.layers is None else spec.scope.layers
    options = [pair for name in intervention(spec.name).naming for pair in pairs_in(spec.options.get(name))]
    return {layer: named for layer in layers if (named := experts_at([*spec.scope.experts, *options], layer))}


def reseeded(specs: Sequence[Spec], batch: int) -> tuple[Spec, ...]:
    """The specs with random numbers of their own for each batch: otherwise all batches would share their luck."""
    return tuple(replace(s, scope=replace(s.scope, seed=s.scope.seed + 1_000_003 * batch)) for s in specs)


def step_by_step(arm: Arm) -> bool:
    """Does it act otherwise on a text that is read at once than on one that is written?"""
    by_step = (s.scope.phase != "all" or s.scope.last is not None or _whole_passes(s.name) for s in arm.specs)
    return arm.strategy is not None or any(by_step)


def _whole_passes(name: str) -> bool:
    """Does what it does to a token depend on the others of the pass? A number of experts per token does not."""
    declared = intervention(name)
    return declared.per_pass and declared.k is None


def check_arms(arms: Sequence[Arm], model: Any, tokenizer: Any) -> dict[int, int]:
    """layer -> number of experts of `model`; UsageError for an arm that does not fit it, before anything is asked."""
    from probes.capture.check import self_test
    from probes.steering import steer

    for arm in arms:
        with steer(model, arm.specs, tokenizer=tokenizer):
            pass
    return {r.layer: r.router.num_experts for r in self_test(model).layers if r.choice or r.logits}


def refusal_of(model: Any, tokenizer: Any) -> Callable[[tuple[Spec, ...]], str]:
    """A function that says why interventions do not fit the model; "" if they do."""
    from probes.steering import steer

    def refusal(specs: tuple[Spec, ...]) -> str:
        try:
            with steer(model, specs, tokenizer=tokenizer):
                return ""
        except UsageError as error:
            return str(error)

    return refusal
