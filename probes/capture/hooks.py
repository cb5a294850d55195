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

from probes.families.layout import Point

_LOCKS: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
_LOCKS_GUARD = threading.Lock()


def lock_of(model: Any) -> Any:
    """The one re-entrant lock of `model`."""
    with _LOCKS_GUARD:
        return _LOCKS.setdefault(model, threading.RLock())


class Hooks:
    """A set of hooks that is there exactly while the `with` block runs."""

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
    raise ValueError(f"a hook runs 'before' or 'after' a module, not {point.when!r}")
