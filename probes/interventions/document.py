"""The catalogue in docs/interventions.md, from the declarations: `python -m probes.interventions.document`."""

from __future__ import annotations

import sys
from pathlib import Path

from probes.document import fill
from probes.interventions import interventions
from probes.interventions.base import Intervention
from probes.metrics.registry import Option

PAGE = Path("docs/interventions.md")
BLOCK = "catalogue"
RECIPES = "recipes"


def document() -> str:
    """The generated part `catalogue`."""
    declared = interventions().values()
    index = [
        "| intervention | acts on | |",
        "|---|---|---|",
        *(f"| [`{i.name}`](#{i.name}) | {', '.join(i.stages)} | {i.does} |" for i in declared),
    ]
    return "\n".join([*index, "", *(section(i) for i in declared)])


def recipes_table() -> str:
    """The generated part `recipes`."""
    from probes.recipes import recipes

    rows = [f"| `{r.name}` | {r.does} | `{r.example}` | {r.source} |" for r in recipes().values()]
    return "\n".join(["| recipe | | example | source |", "|---|---|---|---|", *rows])


def section(one: Intervention) -> str:
    """One intervention."""
    lines = [f"### {one.name}", "", f"**{one.title}.** {one.does[0].upper()}{one.does[1:]}.", ""]
    lines += [f"{one.formula}", "", f"Source: {one.source}.", "", f"A recording shows {one.shows}.", ""]
    if one.options:
        lines += ["| parameter | default | |", "|---|---|---|", *(_option(o) for o in one.options), ""]
    words = [*_facts(one), *([one.notes] if one.notes else [])]
    return "\n".join([*lines, *([" ".join(words), ""] if words else [])])


def _facts(one: Intervention) -> list[str]:
    """What follows from the declaration, in sentences."""
    facts = []
    if one.named:
        facts.append("Needs named experts." if one.named == "experts" else "May name experts.")
    if one.aliases:
        facts += [f"`{new}` is another word for `{old}`." for new, old in one.aliases.items()]
    if one.neutral is not None:
        values = ", ".join(f"{name} = {value}" for name, value in one.neutral.items())
        facts.append(f"With {values} nothing changes, bit for bit.")
    if one.per_pass:
        facts.append("Acts on whole passes: tokens, positions and a random share cannot limit it.")
    return facts


def _option(option: Option) -> str:
    choices = f" ({', '.join(map(str, option.choices))})" if option.choices else ""
    bounds = f"; {option.range_text()}" if option.low is not None or option.high is not None else ""
    default = "" if option.default in (None, (), False) else str(option.default)
    return f"| `{option.name}` | {default} | {option.help}{choices}{bounds} |"


if __name__ == "__main__":
    page = sys.argv[1] if len(sys.argv) > 1 else PAGE
    fill(page, BLOCK, document())
    fill(page, RECIPES, recipes_table())
