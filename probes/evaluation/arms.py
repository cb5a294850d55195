"""What is compared: an arm is a model under some interventions; its controls do the same to experts drawn at random.

An intervention that names experts gets controls that name as many others, layer by layer. Any other gets `random`
choice of the same scope: what remains of a model whose router has no say.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from probes.errors import UsageError
from probes.interventions import Spec, intervention, parse_all
from probes.recipes import JOINED, is_recipe, specs_of

BASELINE = "baseline"


@dataclass(frozen=True)
class Arm:
    """One way to run the model. `control_of` names the arm it is a control of, `seed` which of its controls it is."""

    name: str
    specs: tuple[Spec, ...] = ()
    control_of: str | None = None
    seed: int | None = None

    @property
    def key(self) -> str:
        """What it does, as text: the same for arms that do the same."""
        return json.dumps([spec.as_dict() for spec in self.specs], sort_keys=True, ensure_ascii=False)


def arms_of(given: Sequence[Any], trace: Any = None, run_id: int | None = None) -> list[Arm]:
    """One arm per entry. `A + B` (blanks around the plus) and files of several interventions are one arm together.

    trace, run_id: the recording that recipes among them ask (see `probes.recipes`).
    """
    arms = [
        arm_of(one, trace, run_id) for one in ([given] if isinstance(given, (str, Path, Mapping, Spec, Arm)) else given)
    ]
    names = [arm.name for arm in arms]
    for name in names:
        if names.count(name) > 1 or name == BASELINE:
            raise UsageError(f"the intervention {name} is given twice" if name != BASELINE else f"no arm is {name!r}")
    return arms


def arm_of(given: Any, trace: Any = None, run_id: int | None = None) -> Arm:
    """An arm of one entry, as text, a file, a dict, a Spec, or a sequence of these."""
    if isinstance(given, Arm):
        return given
    specs = specs_of(given, trace, run_id)
    if not specs:
        raise UsageError("an empty list of interventions would be the baseline itself")
    return Arm(_name(given, specs), specs)


def _name(given: Any, specs: tuple[Spec, ...]) -> str:
    """The stem of a file, a recipe as it was written, and any other by what it does."""
    if isinstance(given, Path) or (isinstance(given, str) and given.endswith((".yaml", ".yml", ".json"))):
        return Path(given).stem
    recipe = isinstance(given, str) and any(is_recipe(part) for part in JOINED.split(given))
    return given if recipe else " + ".join(map(str, specs))


def controls(arm: Arm, routers: Mapping[int, int], count: int, seed: int = 0) -> list[Arm]:
    """`count` controls of an arm, drawn with the seeds from `seed` on; routers: layer -> number of experts."""
    draw = _with_others if any(experts_in(spec, routers) for spec in arm.specs) else _with_random_choice
    seeds = range(seed, seed + count)
    return [Arm(f"{arm.name} (control {s})", draw(arm.specs, routers, s), arm.name, s) for s in seeds]


def experts_in(spec: Spec, routers: Mapping[int, int]) -> dict[int, tuple[int, ...]]:
    """layer -> the experts that a spec names there, in its scope."""
    layers = routers if spec.scope.layers is None else spec.scope.layers
    return {layer: named for layer in layers if (named := spec.scope.experts_of(layer))}


def _with_others(specs: tuple[Spec, ...], routers: Mapping[int, int], seed: int) -> tuple[Spec, ...]:
    """The same with other experts: each named one is exchanged for one that is not, wherever it is named."""
    named: dict[int, list[int]] = {}
    for spec in specs:
        for layer, experts in experts_in(spec, routers).items():
            named.setdefault(layer, []).extend(e for e in experts if e not in named.get(layer, []))
    rng = random.Random(f"control-{seed}")  # noqa: S311 - a draw of experts, no secret
    other = {layer: _exchanged(experts, routers[layer], rng) for layer, experts in sorted(named.items())}
    return tuple(_renamed(spec, other, routers) for spec in specs)


def _exchanged(named: list[int], num_experts: int, rng: random.Random) -> dict[int, int]:
    rest = [e for e in range(num_experts) if e not in named]
    # Where more than half of a layer's experts are named, there are not enough others: all of them may be drawn.
    pool = rest if len(rest) >= len(named) else list(range(num_experts))
    return dict(zip(named, rng.sample(pool, len(named)), strict=True))


def _renamed(spec: Spec, other: dict[int, dict[int, int]], routers: Mapping[int, int]) -> Spec:
    named = experts_in(spec, routers)
    if not named:
        return spec
    pairs = tuple((layer, other[layer][e]) for layer, experts in sorted(named.items()) for e in experts)
    return replace(spec, scope=replace(spec.scope, experts=pairs))


def _with_random_choice(specs: tuple[Spec, ...], routers: Mapping[int, int], seed: int) -> tuple[Spec, ...]:
    scopes = dict.fromkeys(replace(spec.scope, experts=(), seed=seed) for spec in specs)
    return tuple(replace(parse_all("random")[0], scope=scope) for scope in scopes)


def reseeded(specs: Sequence[Spec], batch: int) -> tuple[Spec, ...]:
    """The specs with random numbers of their own for each batch: otherwise all batches would share their luck."""
    return tuple(replace(s, scope=replace(s.scope, seed=s.scope.seed + 1_000_003 * batch)) for s in specs)


def step_by_step(specs: Sequence[Spec]) -> bool:
    """Do these act otherwise on a text that is read at once than on one that is written?"""
    return any(s.scope.phase != "all" or s.scope.last is not None or _whole_passes(s.name) for s in specs)


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
