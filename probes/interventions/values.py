"""Options that are more than a number: lists of experts, and tables {layer: {expert: ...}}.

Both are kept as JSON has them, so that a spec and what is stored of it are the same.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from probes.errors import UsageError
from probes.interventions.spec import MAX_BYTES, Spec, expert_pairs

Pair = tuple[int | None, int]


def experts(value: Any) -> tuple[str, ...]:
    """Experts in the order given: "3.7+5.1" (layer.expert), "7" (of every layer), [[3, 7]] or {3: [7]}.

    >>> experts({3: [7, 9], 5: [1]})
    ('3.7', '3.9', '5.1')
    """
    pairs = dict.fromkeys(expert_pairs(value))
    return tuple(str(expert) if layer is None else f"{layer}.{expert}" for layer, expert in pairs)


def means(value: Any) -> dict[str, dict[str, list[float]]]:
    """{layer: {expert: [H numbers]}}, as a mapping, JSON text, or the name of a JSON file."""
    return _table(value, "means", _numbers)


def members(value: Any) -> dict[str, dict[str, dict[str, float]]]:
    """{layer: {expert: {member: share}}}; of a list of members each has share 1."""
    return _table(value, "members", _shares)


def vectors(value: Any) -> Any:
    """{layer: [a number per expert]}, in the same forms; from Python, a function (site, z [T, E]) -> z as well."""
    if callable(value):
        return value
    loaded = _loaded(value, "vectors")
    if not isinstance(loaded, Mapping):
        raise UsageError("vectors are a table {layer: [a number per expert]}")
    return {_index(layer, "vectors"): _numbers(row, f"vectors of {layer}") for layer, row in loaded.items()}


def _table(value: Any, what: str, read: Any) -> dict[str, dict[str, Any]]:
    loaded = _loaded(value, what)
    if not isinstance(loaded, Mapping) or not all(isinstance(row, Mapping) for row in loaded.values()):
        raise UsageError(f"{what} are a table {{layer: {{expert: ...}}}}")
    rows = {_index(layer, what): row for layer, row in loaded.items()}
    return {la: {_index(e, what): read(v, f"{what} of {la}.{e}") for e, v in row.items()} for la, row in rows.items()}


def _loaded(value: Any, what: str) -> Any:
    if not isinstance(value, str):
        return value
    if value.lower().endswith(".json"):
        value = _read(Path(value), what)
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise UsageError(f"{what}: no JSON (line {error.lineno}, column {error.colno}: {error.msg})") from None


def _read(path: Path, what: str) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"{what}: {path} is larger than {MAX_BYTES >> 20} MiB")
        return path.read_text("utf-8")
    except OSError as error:
        raise UsageError(f"{what}: cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{what}: {path} is not text in UTF-8") from None


def _index(key: Any, what: str) -> str:
    try:
        number = int(str(key))
    except ValueError:
        number = -1
    if number < 0:
        raise UsageError(f"{what}: {key!r} is no number of a layer or an expert")
    return str(number)


def _numbers(values: Any, what: str) -> list[float]:
    try:
        numbers = [float(v) for v in values]
    except (TypeError, ValueError):
        raise UsageError(f"{what}: a list of numbers is wanted") from None
    if not numbers or not all(map(math.isfinite, numbers)):
        raise UsageError(f"{what}: a list of finite numbers is wanted")
    return numbers


def _shares(value: Any, what: str) -> dict[str, float]:
    given = value if isinstance(value, Mapping) else dict.fromkeys(value if isinstance(value, Iterable) else (), 1.0)
    numbers = _numbers(given.values(), what)
    if min(numbers) < 0 or sum(numbers) <= 0:
        raise UsageError(f"{what}: shares must not be negative, and not all 0")
    return {_index(member, what): number for member, number in zip(given, numbers, strict=True)}


def pairs_in(value: Any) -> list[Pair]:
    """(layer, expert) pairs that an option's value names."""
    if isinstance(value, Mapping):
        return [(int(layer), int(expert)) for layer, row in value.items() for expert in row]
    return expert_pairs(value) if value else []


def check_naming(specs: tuple[Spec, ...]) -> tuple[Spec, ...]:
    """The specs, or a UsageError for one that names no expert although it acts on named ones: no model tells more."""
    from probes.interventions import intervention

    for spec in specs:
        declared = intervention(spec.name)
        pairs = [*spec.scope.experts, *(p for name in declared.naming for p in pairs_in(spec.options.get(name)))]
        if pairs or not (declared.named == "experts" or (declared.naming and not declared.named)):
            continue
        how = f"{declared.naming[0]}=3.7+5.1" if not declared.named else "layer=3,expert=7"
        raise UsageError(f"{spec.name}: no experts are named, as in '{spec.name}:{how}'")
    return specs


def experts_at(pairs: Iterable[Pair], layer: int) -> tuple[int, ...]:
    """The experts that `pairs` name for `layer`, each once, in their order."""
    return tuple(dict.fromkeys(expert for where, expert in pairs if where in (None, layer)))
