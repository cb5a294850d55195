"""Hooks: look or edit at named points of a model, and leave no trace.

    with Hooks([Point(module, "after", callback)]):
        model(**inputs)

The handle is the context manager: nothing is registered before entering, only our own hooks are removed on leaving,
also when registering stopped half-way. Hooks run in `__call__`, outside whatever accelerate or tensor parallelism did
to `module.forward`. A callback that returns None looks; one that returns something edits (see `Point`).

Hooks are global to a model, so whoever hooks it holds the model's lock (`lock_of`): a second capture or intervention
in another thread waits, in the same thread it nests.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from types import TracebackType
from typing import Any
from weakref import WeakKeyDictionary

from probes.capture.within import core_of
from probes.families.layout import Point

_LOCKS: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
_LOCKS_GUARD = threading.Lock()


def lock_of(model: Any) -> Any:
    """The one re-entrant lock of `model`, the same for every wrapper around it."""
    core = core_of(model)
    with _LOCKS_GUARD:
        return _LOCKS.setdefault(core, threading.RLock())


class Hooks:
    """A set of hooks that is there exactly while the `with` block runs."""

    OWN_NAMES = ("has_post_expert_norm", "post_expert_norm")  # attributes a hook may put on a module meanwhile

    def __init__(self, points: Iterable[Point]) -> None:
        self.points = list(points)
        self._handles: list[Any] = []

    def __enter__(self) -> Hooks:
        try:
            for point in self.points:
                self._handles.append(_register(point))
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._remove()

    def _remove(self) -> None:
        while self._handles:
            self._handles.pop().remove()


def _register(point: Point) -> Any:
    if point.when == "before":
        return point.module.register_forward_pre_hook(point.callback, prepend=point.first, with_kwargs=True)
    if point.when == "after":
        return point.module.register_forward_hook(point.callback, prepend=point.first, with_kwargs=True)
    if point.when == "always":
        return point.module.register_forward_hook(
            point.callback, prepend=point.first, with_kwargs=True, always_call=True
        )
    if point.when == "inside":
        return _Inside(point.module, point.callback)
    if point.when == "around":
        return _Around(point.module, point.callback)
    raise ValueError(f"a hook runs 'before', 'after', 'inside' or 'around' a module, not {point.when!r}")


class _Around:
    """Enters a context when the module starts and leaves it when it ends, also when it ends in an exception.

    `enter()` gives the context of one run, or None to let the run pass. It is left before other hooks see the output.
    """

    def __init__(self, module: Any, enter: Any) -> None:
        self._open: list[Any] = []
        self._enter = enter
        before = module.register_forward_pre_hook(self._before)
        try:
            after = module.register_forward_hook(self._after, always_call=True, prepend=True)
        except BaseException:
            before.remove()
            raise
        self._handles = (before, after)

    def _before(self, module: Any, args: Any) -> None:
        context = self._enter()
        if context is not None:
            context.__enter__()
        self._open.append(context)

    def _after(self, module: Any, args: Any, output: Any) -> None:
        # A hook before ours may have failed: then there is nothing of ours to leave.
        context = self._open.pop() if self._open else None
        if context is not None:
            context.__exit__(None, None, None)

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


class _Inside:
    """Stands where transformers puts a norm between the experts' last product and their weighting.

    The experts' own norm, if they have one, still runs first. Instance attributes hide the class's and the submodule's
    of the same name, and are taken away again.
    """

    NAMES = Hooks.OWN_NAMES

    def __init__(self, module: Any, callback: Any) -> None:
        norm = module.post_expert_norm if module.has_post_expert_norm else None

        def between(outputs: Any) -> Any:
            outputs = outputs if norm is None else norm(outputs)
            edited = callback(module, outputs)
            return outputs if edited is None else edited

        self._module = module
        self._found = {name: vars(module)[name] for name in self.NAMES if name in vars(module)}
        vars(module).update(zip(self.NAMES, (True, between), strict=True))

    def remove(self) -> None:
        for name in self.NAMES:
            vars(self._module).pop(name, None)
        vars(self._module).update(self._found)
