"""`probes.steer`: run a model under interventions, and get it back as it was."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from probes.errors import ProbeError
from probes.interventions import Spec, parse_all

_ACTIVE: WeakKeyDictionary[Any, list[_Entry]] = WeakKeyDictionary()  # core of the model -> what was entered, in order


@dataclass
class Steering:
    """What a model is steered by, while it is.

    specs   the interventions in order
    widths  layer -> the most experts a token can get there, where a layer is edited
    drops   layers in which a slot of weight 0 stands for no expert
    draws   the random numbers of each spec, and the seed they began with
    engine  carries them out; None where there is nothing to do
    """

    specs: tuple[Spec, ...]
    widths: dict[int, int] = field(default_factory=dict)
    drops: frozenset[int] = frozenset()
    draws: tuple[tuple[Any, int], ...] = ()
    engine: Any = None
    wider: list[Steering] = field(default_factory=list)  # the same with what was entered within it

    def restart(self, batch: int) -> None:
        """Draw for batch number `batch` what it would get in any run, however much was drawn before."""
        for generator, seed in self.draws:
            generator.manual_seed((seed + batch * 0x9E3779B97F4A7C15) % 2**63)  # far apart for neighbours

    @property
    def ran(self) -> bool:
        """Did the model run within its reach, if there is anything to do?"""
        return self.engine is None or self.engine.passes > 0 or any(s.engine and s.ran for s in self.wider)

    @property
    def acted(self) -> bool | None:
        """Was any token in the scope of an intervention; None where their options change nothing."""
        return None if self.engine is None else self.engine.acted or any(s.acted for s in self.wider)

    def forget(self) -> None:
        """What acted until now was a trial."""
        if self.engine is not None:
            self.engine.forget()

    def complain(self) -> None:
        """ProbeError where the model ran and none of the hooks saw it; a warning where it ran in another thread."""
        engine, names = self.engine, ", ".join(spec.name for spec in self.specs)
        if engine is None:
            return
        if engine.missed and not engine.passes:
            raise ProbeError(f"{names}: the routers ran {engine.missed} times outside of any pass; nothing was steered")
        if engine.due and not engine.hooked:
            raise ProbeError(f"{names}: the model ran, but none of its edited routers and experts; nothing was steered")
        if engine.passes_elsewhere and not engine.passes:
            logging.getLogger(__name__).warning(
                "%s: %d passes ran in another thread and were not steered; only the thread that entered steer is",
                names,
                engine.passes_elsewhere,
            )

    def as_list(self) -> list[dict[str, Any]]:
        """The specs, JSON-able, as a run's provenance keeps them."""
        return [spec.as_dict() for spec in self.specs]


@contextmanager
def steer(model: Any, interventions: Any, *, tokenizer: Any = None) -> Iterator[Steering]:
    """Run `model` under `interventions` while the block lasts.

    interventions: inline forms, files, dicts, `Spec`s, or a list of these; they act in this order. Holds the model's
    lock, and steers the passes of the entering thread only. A `steer` within a `steer` adds its interventions after
    the outer ones. Everything is undone on leaving, also after an exception and in another order than they were
    entered. UsageError for what does not fit the model; ProbeError for a model that cannot be hooked, and on leaving
    where the model ran past the hooks.

        with probes.steer(model, ["ban:layer=3,expert=7"]):
            model.generate(**inputs)
    """
    from probes.capture.hooks import lock_of

    entry = _Entry(parse_all(interventions), tokenizer)
    with lock_of(model):
        before = _entries(model)
        _enter(model, [*before, entry])
        try:
            yield entry.steering
        finally:
            # Also where it is not the innermost: the others go on with the random numbers they had come to.
            _enter(model, [one for one in _entries(model) if one is not entry])
        entry.steering.complain()


@dataclass(eq=False)
class _Entry:
    """One `steer`: what it adds, and what the model is steered by from then on, by the entries that are there."""

    specs: tuple[Spec, ...]
    tokenizer: Any
    steering: Any = None
    known: dict[tuple[int, ...], Steering] = field(default_factory=dict)


def active(model: Any) -> Steering | None:
    """What `model` is being steered by, if it is; the same for every wrapper around it."""
    entries = _entries(model)
    return entries[-1].steering if entries else None


def _entries(model: Any) -> list[_Entry]:
    from probes.capture.within import core_of

    return _ACTIVE.get(core_of(model), [])


def _enter(model: Any, entries: list[_Entry]) -> None:
    """Steer by these entries, and no longer by those of before."""
    from probes.capture.stage import drop_if_empty, stage_of
    from probes.capture.within import core_of

    before, core = _entries(model), core_of(model)
    old = active(model)
    new = _steering(model, entries)
    try:
        _ACTIVE[core] = entries
        if entries:
            entries[-1].steering = new
        stage_of(model).change(old.engine if old else None, new.engine if new else None)
    except BaseException:
        _ACTIVE[core] = before
        raise
    finally:
        if not _ACTIVE[core]:
            del _ACTIVE[core]
        drop_if_empty(model)


def _steering(model: Any, entries: list[_Entry]) -> Steering | None:
    """What these entries come to together, made once."""
    from probes.capture.check import self_test

    if not entries:
        return None
    key = tuple(map(id, entries))
    known = entries[-1].known
    if key not in known:
        specs = tuple(spec for entry in entries for spec in entry.specs)
        tokenizer = next((e.tokenizer for e in reversed(entries) if e.tokenizer is not None), None)
        known[key] = _prepare(model, self_test(model), specs, tokenizer)
        for entry in entries[:-1]:
            if entry.steering is not None:
                entry.steering.wider.append(known[key])
    return known[key]


def _prepare(model: Any, report: Any, specs: tuple[Spec, ...], tokenizer: Any) -> Steering:
    from probes.interventions.engine import Engine
    from probes.interventions.plan import is_neutral, plan, widths
    from probes.interventions.router_code import learn

    if not specs:
        return Steering(())
    calls = learn(model, report)
    edits = plan(specs, report, calls, tokenizer)
    drops = frozenset(la for la, some in edits.items() if any(e.declared.drops for e in some))
    draws = {id(e.site.generator): (e.site.generator, e.site.spec.scope.seed) for some in edits.values() for e in some}
    steering = Steering(specs, widths(edits), drops, tuple(draws.values()))
    working = {la: tuple(e for e in some if not is_neutral(e.site.spec)) for la, some in edits.items()}
    working = {la: some for la, some in working.items() if some}
    steering.engine = Engine(model, report, calls, working) if working else None
    return steering
