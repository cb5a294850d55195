"""`probes.steer`: run a model under interventions, and get it back as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from probes.interventions import Spec, parse_all

_ACTIVE: WeakKeyDictionary[Any, Steering] = WeakKeyDictionary()


@dataclass
class Steering:
    """What a model is steered by, while it is.

    specs   the interventions in order
    widths  layer -> the most experts a token can get there, where a layer is edited
    drops   layers in which a slot of weight 0 stands for no expert
    draws   the random numbers of each spec, and the seed they began with
    """

    specs: tuple[Spec, ...]
    widths: dict[int, int] = field(default_factory=dict)
    drops: frozenset[int] = frozenset()
    draws: tuple[tuple[Any, int], ...] = ()
    hooks: Any = None

    def restart(self, batch: int) -> None:
        """Draw for batch number `batch` what it would get in any run, however much was drawn before."""
        for generator, seed in self.draws:
            generator.manual_seed((seed + batch * 0x9E3779B97F4A7C15) % 2**63)  # far apart for neighbours

    def as_list(self) -> list[dict[str, Any]]:
        """The specs, JSON-able, as a run's provenance keeps them."""
        return [spec.as_dict() for spec in self.specs]


@contextmanager
def steer(model: Any, interventions: Any, *, tokenizer: Any = None) -> Iterator[Steering]:
    """Run `model` under `interventions` while the block lasts.

    interventions: inline forms, files, dicts, `Spec`s, or a list of these; they act in this order. Holds the model's
    lock, and steers the passes of the entering thread only. A `steer` within a `steer` adds its interventions after
    the outer ones. Everything is undone on leaving, also after an exception. UsageError for what does not fit the
    model; ProbeError for a model that cannot be hooked.

        with probes.steer(model, ["ban:layer=3,expert=7"]):
            model.generate(**inputs)
    """
    from probes.capture.check import self_test
    from probes.capture.hooks import Hooks, lock_of

    specs = parse_all(interventions)
    with lock_of(model):
        outer = _ACTIVE.get(model)
        if outer is not None:
            outer.hooks.__exit__(None, None, None)
        try:
            steering, points = _prepare(model, self_test(model), (*(outer.specs if outer else ()), *specs), tokenizer)
            steering.hooks = Hooks(points)
            with steering.hooks:
                _ACTIVE[model] = steering
                yield steering
        finally:
            _restore(model, outer)


def active(model: Any) -> Steering | None:
    """What `model` is being steered by, if it is."""
    return _ACTIVE.get(model)


def _prepare(model: Any, report: Any, specs: tuple[Spec, ...], tokenizer: Any) -> tuple[Steering, list[Any]]:
    from probes.interventions.engine import Engine
    from probes.interventions.plan import is_neutral, plan, widths
    from probes.interventions.router_code import learn

    if not specs:
        return Steering(()), []
    calls = learn(model, report)
    edits = plan(specs, report, calls, tokenizer)
    drops = frozenset(la for la, some in edits.items() if any(e.declared.drops for e in some))
    draws = {id(e.site.generator): (e.site.generator, e.site.spec.scope.seed) for some in edits.values() for e in some}
    steering = Steering(specs, widths(edits), drops, tuple(draws.values()))
    working = {la: tuple(e for e in some if not is_neutral(e.site.spec)) for la, some in edits.items()}
    return steering, Engine(model, report, calls, {la: some for la, some in working.items() if some}).points()


def _restore(model: Any, outer: Steering | None) -> None:
    if outer is None:
        _ACTIVE.pop(model, None)
    else:
        _ACTIVE[model] = outer
        outer.hooks.__enter__()
