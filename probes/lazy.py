"""torch, imported when it is first used: what only declares something must not cost three seconds."""

from __future__ import annotations

import importlib
from typing import Any


class _Later:
    """A module by name; looking anything up in it imports it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self._name), name)


torch: Any = _Later("torch")
