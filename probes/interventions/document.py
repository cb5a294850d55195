"""docs/interventions.md from the declarations: `python -m probes.interventions.document` writes its part anew.

The page is made of generated blocks, each between a pair of markers, so that one can be written without the others.
"""

from __future__ import annotations

import sys
from pathlib import Path

from probes.interventions import interventions
from probes.interventions.base import Intervention
from probes.metrics.registry import Option

PAGE = Path("docs/interventions.md")
BLOCK = "catalogue"
HEAD = """# Interventions

Generated from the declarations in `probes/interventions/catalogue/` by `python -m probes.interventions.document`; a
test keeps it current.

An intervention changes what the router of a running model chose, or what an expert returned. It is a small record:
a name, parameters, and a scope. Several compose in the order given; those of one stage act one after another, and
the stages follow the router: logits, choice, number of experts, what the experts receive, what they return.

```
probe record MODEL --prompts FILE --out TRACE --intervention ban:layer=3,expert=7 --baseline 1
```
```python
with probes.steer(model, ["boost:expert=3.7+5.1,factor=8,phase=decode", "top_k:k=4"]):
    model.generate(**inputs)
```

T tokens, E experts, k chosen per token; z router logits, p scores (they sum to 1), w weights of the chosen.
Specs are written inline as above, or as JSON or YAML: `[{name: ban, layers: [3], experts: [7]}]`.

| scope, common to all | |
|---|---|
| `layer` | the model's own numbers: 3, 0-7, 0-3+5; all MoE layers unless told |
| `expert` | 7, 7+9, 3.7+5.1 (layer.expert) |
| `phase` | prefill, decode or all |
| `position` | a range of positions within the sequence: 0-15 |
| `last` | only the last so many tokens of what a pass is given |
| `token` | only where the input token is one of these: ids, or texts that are one token |
| `probability` | only for a random share of the tokens, the same in every layer |
| `seed` | of everything drawn at random; a resumed recording draws what an uninterrupted one does |

A slot that lost its weight to an intervention is recorded as no expert, and a token that lost all its slots says so
as the reason why its routing is missing. Recorded norms are those of outputs after `output`. A run keeps the exact
specs, and the run it is to be compared with, in `runs.intervention` and `runs.baseline_run_id`.
"""


def document() -> str:
    """The block of the catalogue."""
    declared = interventions().values()
    index = [
        "| intervention | acts on | |",
        "|---|---|---|",
        *(f"| [`{i.name}`](#{i.name}) | {', '.join(i.stages)} | {i.does} |" for i in declared),
    ]
    return "\n".join([HEAD, *index, "", *(section(i) for i in declared)])


def section(one: Intervention) -> str:
    """One intervention."""
    lines = [f"## {one.name}", "", f"**{one.title}.** {one.does[0].upper()}{one.does[1:]}.", ""]
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


def markers(block: str) -> tuple[str, str]:
    """The lines around a generated block."""
    return f"<!-- {block}: generated -->", f"<!-- {block}: end -->"


def with_block(page: str, block: str, text: str) -> str:
    """The page with `text` in its block, at its end if there was none; what stands elsewhere stays."""
    start, end = markers(block)
    written = f"{start}\n{text.strip()}\n{end}"
    if start not in page:
        return f"{page.rstrip()}\n\n{written}\n".lstrip("\n")
    before, rest = page.split(start, 1)
    return before + written + rest.split(end, 1)[1]


def write_block(block: str, text: str, path: Path = PAGE) -> None:
    """Write one block of the page anew."""
    path.write_text(with_block(path.read_text("utf-8") if path.exists() else "", block, text), "utf-8")


if __name__ == "__main__":
    write_block(BLOCK, document(), Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE)
