"""From analysis to action: interventions built from what a trace says, one file per recipe.

    from probes.recipes import specs_of

    specs_of("npmi:label=arithmetic,top=2,action=ban", "trace.duckdb")     # the Specs, ready for `probes.steer`

A recipe stands wherever an intervention can be named, once there is a trace to ask (`--from TRACE`). What it gives is
an ordinary spec with every expert named: `probe interventions RECIPE --from TRACE > spec.yaml` keeps it.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from probes.errors import UsageError, unknown
from probes.interventions import Spec, interventions, parse_all
from probes.recipes.base import Asked, Recipe

__all__ = ["Asked", "Recipe", "as_yaml", "build", "recipe", "recipes", "specs_of"]

JOINED = re.compile(r"\s\+\s")


@cache
def recipes() -> dict[str, Recipe]:
    """All recipes by name: every file of this package that declares one."""
    names = sorted(found.name for found in pkgutil.iter_modules(__path__))
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    return {module.RECIPE.name: module.RECIPE for module in modules if hasattr(module, "RECIPE")}


def recipe(name: str) -> Recipe:
    """The recipe called `name`; a wrong name is a UsageError with the nearest right one."""
    if name not in recipes():
        raise unknown("recipe", name, [*recipes(), *interventions()])
    return recipes()[name]


def build(given: str | Mapping[str, Any], trace: Any, run_id: int | None = None) -> tuple[Spec, ...]:
    """The specs of one recipe, inline ("npmi:label=sums,top=2") or as a mapping with its "name".

    trace: a path or an open trace. UsageError for options that do not fit, ProbeError where the trace lacks what is
    needed or holds no such expert.
    """
    words = _inline(given) if isinstance(given, str) else dict(given)
    declared = recipe(str(words.pop("name", "")))
    return declared.specs(Asked(trace, run_id), words)


def specs_of(given: Any, trace: Any = None, run_id: int | None = None) -> tuple[Spec, ...]:
    """Specs of what acts together: interventions or recipes, `A + B` (blanks around the plus), files, or a sequence."""
    if isinstance(given, (list, tuple)):
        return tuple(spec for one in given for spec in specs_of(one, trace, run_id))
    if not isinstance(given, str) or given.lstrip().startswith(("{", "[")):
        return parse_all(given)
    return tuple(spec for part in JOINED.split(given) for spec in _part(part.strip(), trace, run_id))


def is_recipe(text: str) -> bool:
    """Does this name a recipe?"""
    return text.partition(":")[0].strip() in recipes()


def _part(text: str, trace: Any, run_id: int | None) -> tuple[Spec, ...]:
    if is_recipe(text):
        if trace is None:
            raise UsageError(f"{text.partition(':')[0]} asks a recording: say which one (--from TRACE)")
        return build(text, trace, run_id)
    name = text.partition(":")[0]
    if Path(text).suffix.lower() not in (".yaml", ".yml", ".json") and name not in interventions():
        raise unknown("intervention", name, [*interventions(), *(recipes() if trace is not None else ())])
    return parse_all(text)


def _inline(text: str) -> dict[str, Any]:
    name, _, rest = text.strip().partition(":")
    words: dict[str, Any] = {"name": name.strip()}
    for pair in filter(None, (p.strip() for p in rest.split(","))):
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"{pair!r} in {text!r} is no key=value, as in 'npmi:label=sums,top=2'")
        words[key.strip()] = value.strip()
    return words


def as_yaml(specs: tuple[Spec, ...], comment: str = "") -> str:
    """A file that `--intervention FILE` reads; `comment` says where it comes from."""
    import yaml

    head = "".join(f"# {line}\n" for line in comment.splitlines())
    return head + yaml.safe_dump([spec.as_dict() for spec in specs], allow_unicode=True, sort_keys=False)
