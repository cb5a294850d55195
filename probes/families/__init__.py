"""Model families of transformers and the rules they route by: one file per rule, found by listing this package."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Any

from probes.errors import unknown
from probes.families.base import Family, Rule
from probes.families.layout import GENERIC, Layout

__all__ = ["Family", "Layout", "Rule", "families", "family", "family_of", "layouts", "rules"]


@cache
def families() -> dict[str, Family]:
    """All families by name. A file of this package that has `FAMILIES` contributes them."""
    found = [family for module in _modules() for family in getattr(module, "FAMILIES", ())]
    return {family.name: family for family in sorted(found, key=lambda f: f.name)}


@cache
def rules() -> dict[str, Rule]:
    """All rules by name."""
    found = [module.RULE for module in _modules() if hasattr(module, "RULE")]
    return {rule.name: rule for rule in found}


@cache
def layouts() -> tuple[Layout, ...]:
    """The special layouts, then the usual one: the first that finds something in a module has it."""
    special = [f.layout for f in families().values()] + [getattr(m, "LAYOUT", GENERIC) for m in _modules()]
    return (*{id(layout): layout for layout in special if layout is not GENERIC}.values(), GENERIC)


def family(name: str) -> Family:
    """The family called `name`; a wrong name is a UsageError with the nearest right one."""
    if name not in families():
        raise unknown("family", name, families())
    return families()[name]


def family_of(module: Any) -> Family | None:
    """The family whose modelling code `module` comes from, or None (remote code, an architecture we do not know)."""
    words = type(module).__module__.split(".")
    if words[:2] != ["transformers", "models"] or len(words) < 3:
        return None
    return families().get(words[2])


def _modules() -> list[Any]:
    names = sorted(m.name for m in pkgutil.iter_modules(__path__))
    return [importlib.import_module(f"{__name__}.{name}") for name in names]
