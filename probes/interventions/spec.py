"""Specs: an intervention with its parameters and its scope, as people write, store and share it.

ban:layer=3,expert=7                             inline
boost:expert=3.7+5.1,factor=8,phase=decode       expert 7 of layer 3 and expert 1 of layer 5
[{"name": "ban", "layers": [3], "experts": [7]}] JSON; YAML reads the same
- ban: {layer: 3, expert: 7}                     YAML, in short
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from probes.errors import UsageError, unknown
from probes.parsing import is_whole, number, ranges, whole

PHASES = ("all", "prefill", "decode")
# What the singular of a scope's field is taken for.
SINGULAR = {
    "layer": "layers",
    "expert": "experts",
    "position": "positions",
    "token": "tokens",
    "sequence": "sequences",
}
FILES = (".json", ".yaml", ".yml")
MAX_BYTES = 64 << 20  # a spec holds names and numbers; one with mean outputs or logit vectors stays far below


@dataclass(frozen=True)
class Scope:
    """Where an intervention acts.

    layers       the model's own layer indices; None is every MoE layer
    experts      (layer, expert) pairs; layer None stands for every layer of `layers`
    phase        "prefill", "decode" or "all"
    positions    first and last position within the sequence, both included
    last         only the last so many tokens of what a pass is given
    tokens       only where the input token is one of these (ids; texts need the tokenizer)
    sequences    only these rows of the batch, so that one batch can hold a sequence with and without the edit
    probability  share of the tokens, drawn at random with `seed`
    """

    layers: tuple[int, ...] | None = None
    experts: tuple[tuple[int | None, int], ...] = ()
    phase: str = "all"
    positions: tuple[int, int] | None = None
    last: int | None = None
    tokens: tuple[int | str, ...] = ()
    sequences: tuple[int, ...] = ()
    probability: float = 1.0
    seed: int = 0

    @property
    def by_token(self) -> bool:
        """Does it single out tokens within a pass?"""
        by_place = self.positions is not None or self.last is not None
        return by_place or bool(self.tokens) or bool(self.sequences) or self.probability < 1


@dataclass(frozen=True)
class Spec:
    """One intervention as it is asked for."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    scope: Scope = Scope()

    def as_dict(self) -> dict[str, Any]:
        """JSON-able; `parse` reads it back as an equal spec. What has its default is left out."""
        from probes.interventions import intervention

        defaults = {option.name: option.default for option in intervention(self.name).options}
        options = {name: _plain(value) for name, value in self.options.items() if value != defaults.get(name)}
        return {"name": self.name, **options, **_scope_dict(self.scope)}

    def __str__(self) -> str:
        """The inline form, where its parameters have one; JSON otherwise."""
        words = self.as_dict()
        if any(isinstance(value, dict) for value in words.values()):
            return json.dumps(words)
        pairs = [f"{name}={_inline(name, value)}" for name, value in words.items() if name != "name"]
        inline = f"{self.name}:{','.join(pairs)}" if pairs else self.name
        return inline if _reads_as(inline, self) else json.dumps(words)


def _reads_as(inline: str, spec: Spec) -> bool:
    """Not so where the text of a token holds a comma, a plus or digits alone."""
    try:
        return _from_inline(inline) == spec
    except UsageError:
        return False


def parse_all(given: Any) -> tuple[Spec, ...]:
    """Specs from inline forms, files, dicts, specs, or a sequence of these; they act in this order."""
    if given is None:
        return ()
    if isinstance(given, (str, Path, Mapping, Spec)):
        return _several(given)
    if not isinstance(given, Iterable) or isinstance(given, bytes):
        raise UsageError(f"an intervention is text such as 'ban:layer=3,expert=7', a dict, or a list, not {given!r}")
    return tuple(spec for one in given for spec in _several(one))


def parse(given: Any) -> Spec:
    """One spec; UsageError for text that holds none or several."""
    specs = parse_all(given)
    if len(specs) != 1:
        raise UsageError(f"one intervention is wanted here, {given!r} holds {len(specs)}")
    return specs[0]


def _several(given: Any) -> tuple[Spec, ...]:
    if isinstance(given, Spec):
        return (given,)
    if isinstance(given, Mapping):
        return (_from_dict(given),)
    text = str(given)
    if isinstance(given, Path) or (text.lower().endswith(FILES) and not _is_inline(text)):
        return _from_file(Path(text))
    if text.lstrip().startswith(("{", "[")):
        return _from_loaded(_json(text, "the intervention"), "the intervention")
    return (_from_inline(text),)


def _is_inline(text: str) -> bool:
    """Is a file named only in a parameter, as in output:mode=mean,means=means.json?"""
    from probes.interventions import interventions

    name, _, rest = text.partition(":")
    return name.strip() in interventions() and "=" in rest


def _from_file(path: Path) -> tuple[Spec, ...]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"{path} is larger than {MAX_BYTES >> 20} MiB; that is no file of interventions")
        text = path.read_text("utf-8")
    except OSError as error:
        raise UsageError(f"cannot read the interventions in {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not text in UTF-8; interventions are YAML or JSON") from None
    loaded = _json(text, str(path)) if path.suffix.lower() == ".json" else _yaml(text, path)
    return _from_loaded(loaded, str(path))


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"{where}: no JSON (line {error.lineno}, column {error.colno}: {error.msg})") from None


def _yaml(text: str, path: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise UsageError(f"{path}: no YAML{place}") from None


def _from_loaded(loaded: Any, where: str) -> tuple[Spec, ...]:
    if isinstance(loaded, Mapping) and "interventions" in loaded:
        loaded = loaded["interventions"]
    found = [loaded] if isinstance(loaded, (Mapping, str)) else loaded
    if not isinstance(found, list) or not found:
        raise UsageError(f"{where} holds no interventions; write a list such as [{{name: ban, layer: 3, expert: 7}}]")
    specs: list[Spec] = []
    for place, one in enumerate(found, 1):
        if not isinstance(one, (Mapping, str)):
            raise UsageError(f"{where}, intervention {place}: {one!r} is no intervention")
        try:
            specs.append(_from_dict(one) if isinstance(one, Mapping) else _from_inline(one))
        except UsageError as error:
            raise UsageError(f"{where}, intervention {place}: {error}") from None
    return tuple(specs)


def _from_inline(text: str) -> Spec:
    name, _, rest = text.strip().partition(":")
    words: dict[str, Any] = {}
    for pair in filter(None, (p.strip() for p in rest.split(","))):
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"{pair!r} in {text!r} is no key=value, as in 'ban:layer=3,expert=7'")
        key = key.strip()
        words[key] = f"{words[key]}+{value.strip()}" if key in words else value.strip()
    return _from_dict({"name": name, **words})


def _from_dict(given: Mapping[str, Any]) -> Spec:
    from probes.interventions import intervention

    words = dict(given)
    if "name" not in words and len(words) == 1:
        (name, inner), *_ = words.items()
        words = {**inner, "name": name} if isinstance(inner, Mapping) else {"name": name}
    if not isinstance(words.get("name"), str) or not words["name"]:
        raise UsageError(f"an intervention needs a name, as in 'ban:layer=3,expert=7': {dict(given)!r}")
    declared = intervention(words.pop("name"))
    words = {declared.aliases.get(key, SINGULAR.get(key, key)): value for key, value in words.items()}
    known = {option.name: option for option in declared.options}
    scopes = {f.name for f in fields(Scope)}
    for key in words:
        if key not in known and key not in scopes:
            raise unknown(f"parameter of {declared.name}", str(key), [*known, *SINGULAR, *sorted(scopes)])
    options = {name: _option(declared.name, option, words.get(name)) for name, option in known.items()}
    return Spec(declared.name, options, _scope({k: v for k, v in words.items() if k not in known}, declared.name))


def _option(name: str, option: Any, value: Any) -> Any:
    try:
        if option.repeatable and isinstance(value, str):
            value = value.split("+")
        return option.check(value)
    except UsageError as error:
        raise UsageError(f"{name}: {str(error).removeprefix('--')}") from None


def _scope(words: Mapping[str, Any], name: str) -> Scope:
    read: dict[str, Callable[[Any], Any]] = {
        "layers": lambda v: tuple(dict.fromkeys(ranges(v, "layers"))),
        "experts": lambda v: tuple(dict.fromkeys(expert_pairs(v))),
        "phase": _phase,
        "positions": _positions,
        "last": _last,
        "tokens": _tokens,
        "sequences": lambda v: tuple(dict.fromkeys(ranges(v, "sequences"))),
        "probability": _probability,
        "seed": lambda v: whole(v, "seed", 0),
    }
    try:
        given: dict[str, Any] = {key: read[key](value) for key, value in words.items() if value is not None}
        scope = Scope(**given)
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from None
    empty = [key for key in ("layers", "experts", "tokens", "sequences") if key in words and not getattr(scope, key)]
    if empty:
        raise UsageError(f"{name}: the scope is empty: no {empty[0]} are named")
    return scope


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, str):
        return [word.strip() for word in value.split("+") if word.strip()]
    return value if isinstance(value, (list, tuple)) else [value]


def expert_pairs(value: Any) -> list[tuple[int | None, int]]:
    """(layer, expert) from 7, "7+9", "3.7+5.1" (layer.expert), [[3, 7], [5, 1]] or {3: [7], 5: [1]}."""
    if isinstance(value, Mapping):
        return [(whole(layer, "layers", 0), e) for layer, some in value.items() for e in ranges(some, "experts")]
    pairs: list[tuple[int | None, int]] = []
    for item in _items(value):
        if isinstance(item, (list, tuple)) and len(item) == 2:
            pairs.append((None if item[0] is None else whole(item[0], "layers", 0), whole(item[1], "experts", 0)))
        elif isinstance(item, str) and "." in item:
            layer, _, expert = item.partition(".")
            pairs += [(whole(layer, "layers", 0), e) for e in ranges(expert, "experts")]
        elif isinstance(item, float):
            raise UsageError(f'experts: put "{item}" in quotes; as a number, 3.10 would be the same as 3.1')
        else:
            pairs += [(None, e) for e in ranges(item, "experts")]
    return pairs


def _phase(value: Any) -> str:
    if value not in PHASES:
        raise unknown("phase", str(value), PHASES)
    return str(value)


def _last(value: Any) -> int:
    try:
        return whole(value, "last", 1)
    except UsageError:
        raise UsageError(f"last takes a whole number of at least 1, not {value!r}") from None


def _positions(value: Any) -> tuple[int, int]:
    if isinstance(value, (list, tuple)) and len(value) == 2:
        first, last = (whole(v, "positions", 0) for v in value)
    else:
        numbers = ranges(str(value), "positions")
        first, last = (numbers[0], numbers[-1]) if numbers else (0, -1)
        if not numbers or len(numbers) != last - first + 1:
            raise UsageError(f"positions are one range, as in 0-15, not {value!r}")
    ranges(f"{first}-{last}", "positions")
    return first, last


def _tokens(value: Any) -> tuple[int | str, ...]:
    def read(item: Any) -> int | str:
        # "-3" and "²" are texts of tokens.
        as_id = isinstance(item, int) or (isinstance(item, str) and is_whole(item) and item.strip().isdigit())
        return whole(item, "tokens") if as_id else str(item)

    return tuple(dict.fromkeys(read(item) for item in _items(value)))


def _probability(value: Any) -> float:
    try:
        return number(value, "probability", above=0, high=1)
    except UsageError:
        said = f"probability is a share of the tokens, above 0 and at most 1, not {value!r}"
        raise UsageError(said) from None


def _scope_dict(scope: Scope) -> dict[str, Any]:
    default = Scope()
    words = {f.name: getattr(scope, f.name) for f in fields(Scope)}
    changed = {name: value for name, value in words.items() if value != getattr(default, name)}
    if "experts" in changed:
        changed["experts"] = [e if layer is None else f"{layer}.{e}" for layer, e in scope.experts]
    return {name: list(value) if isinstance(value, tuple) else value for name, value in changed.items()}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _inline(name: str, value: Any) -> str:
    if name == "positions":
        return f"{value[0]}-{value[1]}"
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)
