"""Interventions: change what routers choose and what experts return, one file per intervention.

    from probes.interventions import interventions, parse

    parse("ban:layer=3,expert=7")          # a Spec: serialisable, composable
    interventions()["ban"].formula

`probes.steer(model, [...])` carries them out.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from probes.errors import unknown
from probes.interventions.base import Intervention
from probes.interventions.spec import Scope, Spec, parse, parse_all

__all__ = ["Intervention", "Scope", "Spec", "intervention", "interventions", "parse", "parse_all"]


@cache
def interventions() -> dict[str, Intervention]:
    """All interventions by name: every file of the package `catalogue` that declares one."""
    from probes.interventions import catalogue

    names = sorted(found.name for found in pkgutil.iter_modules(catalogue.__path__))
    modules = [importlib.import_module(f"{catalogue.__name__}.{name}") for name in names]
    declared = [module.INTERVENTION for module in modules if hasattr(module, "INTERVENTION")]
    return {one.name: one for one in sorted(declared, key=lambda one: one.name)}


def intervention(name: str) -> Intervention:
    """The intervention called `name`; a wrong name is a UsageError with the nearest right one."""
    if name not in interventions():
        raise unknown("intervention", name, interventions())
    return interventions()[name]
