"""Looking through what adapters put around a module (PEFT): `base_layer`, and the copies of `modules_to_save`.

Hooks go to the module that is called, adapter included, so that logits are those of the adapted router. What the
module is (its family, its number of experts, its bias) is read from the one inside.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def bare(module: Any) -> Any:
    """The module itself, without the adapters around it."""
    while (inner := _inner(module)) is not None:
        module = inner
    return module


def layers_of(module: Any) -> Iterator[Any]:
    """`module` and what is inside of each adapter around it, from the outside to the inside."""
    while module is not None:
        yield module
        module = _inner(module)


def _inner(module: Any) -> Any:
    children = getattr(module, "_modules", {})
    if "base_layer" in children:
        return children["base_layer"]
    return active_copy(module)


def active_copy(module: Any) -> Any:
    """Which of the copies of a module that is saved with an adapter is in use; None for any other module."""
    children = getattr(module, "_modules", {})
    if not {"original_module", "modules_to_save"} <= children.keys():
        return None
    saved = children["modules_to_save"]
    names = [] if getattr(module, "disable_adapters", False) else getattr(module, "active_adapters", [])
    return next((saved[name] for name in names if name in saved), children["original_module"])


def unused_copies(module: Any) -> list[Any]:
    """The copies of a module that is saved with an adapter that are not in use now."""
    used = active_copy(module)
    if used is None:
        return []
    children = module._modules
    return [copy for copy in (children["original_module"], *children["modules_to_save"].values()) if copy is not used]


def has_adapter(module: Any) -> bool:
    """Is there an adapter around the module that changes what its own weights say?"""
    around = list(layers_of(module))[:-1]
    return any("base_layer" in getattr(m, "_modules", {}) and not _idle(m) for m in around)


def _idle(module: Any) -> bool:
    """Merged into the weights already, or switched off."""
    off = getattr(module, "disable_adapters", False) or not getattr(module, "active_adapters", True)
    return bool(off or getattr(module, "merged", False))
