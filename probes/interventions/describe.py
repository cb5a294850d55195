"""What an intervention is, as a record and as text: for `probe interventions`, documents and forms."""

from __future__ import annotations

from typing import Any

from probes.interventions.base import Intervention
from probes.interventions.spec import PHASES

# Where any intervention can be limited to, in the words of a spec.
SCOPE = (
    ("layer", "layers it acts on, as in 3 or 0-7 or 0-3+5 (default: all)"),
    ("expert", "experts it names, as in 7 or 7+9; layer.expert where layers differ, as in 3.7+5.1"),
    ("phase", f"{', '.join(PHASES)} (default all): prefill reads the prompt, decode writes new tokens"),
    ("positions", "first to last position within a sequence, as in 0-15"),
    ("last", "only the last N tokens of what a pass is given"),
    ("tokens", "only where the input token is one of these, ids or texts, as in 5+<think>"),
    ("probability", "only a random share of the tokens, above 0 and at most 1"),
    ("seed", "of everything random in it (default 0)"),
)


def as_record(declared: Intervention) -> dict[str, Any]:
    """Everything that is declared of it; JSON-able."""
    texts = {name: getattr(declared, name) for name in ("name", "title", "does", "formula", "source", "shows", "notes")}
    return {
        **texts,
        "names_experts": {"experts": "required", "optional": "optional"}.get(declared.named, "no"),
        "stages": list(declared.stages),
        "before_selection": declared.before_selection,
        "whole_passes_only": declared.per_pass,
        "options": [option_record(option) for option in declared.options],
        "names_in": list(declared.naming),
        "neutral": None if declared.neutral is None else dict(declared.neutral),
        "aliases": {word: meant.removesuffix("s") for word, meant in declared.aliases.items()},
        "example": example(declared),
    }


def option_record(option: Any) -> dict[str, Any]:
    """An option as a form needs it; JSON-able."""
    return {
        "name": option.name,
        "type": "bool" if option.kind == "flag" else "float" if option.kind == "finite" else option.kind,
        "default": option.default,
        "low": option.low,
        "high": option.high,
        "choices": list(option.choices),
        "repeatable": option.repeatable,
        "help": option.help,
    }


def example(declared: Intervention) -> str:
    """A spec of it, in its inline form."""
    words = ["layer=3", "expert=7"] if declared.named == "experts" else []
    words += [f"{declared.naming[0]}=3.7+3.9"] if declared.naming and not declared.named else []
    for option in declared.options:
        value = declared.example.get(option.name, option.default if option.kind in ("finite", "float") else None)
        if isinstance(value, (int, float, str)):
            words.append(f"{option.name}={value:g}" if isinstance(value, float) else f"{option.name}={value}")
    return f"{declared.name}:{','.join(words)}" if words else declared.name


def as_text(declared: Intervention) -> str:
    """One intervention for people to read."""
    found = as_record(declared)
    lines = [f"{declared.name}: {declared.title}", f"  {declared.does}", ""]
    lines += [f"  formula  {declared.formula}", f"  source   {declared.source}", f"  shows    {declared.shows}"]
    lines += [f"  notes    {declared.notes}"] if declared.notes else []
    lines += ["", "  options"] if found["options"] else []
    lines += map(option_line, declared.options)
    lines += ["", f"  experts  {found['names_experts']}", "  scope (common to all)"]
    scopes = [pair for pair in SCOPE if pair[0] != "expert" or declared.named]
    lines += [f"    {name:<14} {help_}" for name, help_ in scopes]
    return "\n".join([*lines, "", f"  example  {found['example']}"])


def option_line(option: Any) -> str:
    """One option with its type, range and default."""
    ranged = option.low is not None or option.high is not None
    said = [option_record(option)["type"], f"one of {', '.join(map(str, option.choices))}" if option.choices else ""]
    said += [option.range_text() if ranged else "", _default(option.default)]
    return f"    {option.name:<14} {option.help} ({'; '.join(filter(None, said))})"


def _default(value: Any) -> str:
    return "no default" if value in (None, "", ()) else f"default {value}"
