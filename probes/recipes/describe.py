"""What a recipe is, as a record and as text."""

from __future__ import annotations

from typing import Any

from probes.interventions.describe import option_line, option_record
from probes.recipes.base import Recipe


def recipe_record(recipe: Recipe) -> dict[str, Any]:
    """Everything that is declared of it; JSON-able."""
    texts = {name: getattr(recipe, name) for name in ("name", "title", "does", "source", "action", "example")}
    return {**texts, "options": [option_record(option) for option in recipe.options]}


def recipe_text(recipe: Recipe) -> str:
    """One recipe for people to read."""
    lines = [f"{recipe.name}: {recipe.title}", f"  {recipe.does}", "", f"  source   {recipe.source}", ""]
    lines += ["  options", *map(option_line, recipe.options)] if recipe.options else []
    if recipe.action:
        lines.append(f"    {'action':<14} the intervention on these experts (default {recipe.action}); what is no")
        lines.append(f"    {'':<14} option of the recipe is one of the action's, as in factor=8 or phase=decode")
    return "\n".join([*lines, "", f"  example  probe interventions {recipe.example} --from TRACE > spec.yaml"])
