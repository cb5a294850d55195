"""The experts whose output is far larger than any other's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from probes.interventions import Spec
from probes.recipes.base import Asked, Recipe, acting


def build(asked: Asked, options: dict[str, Any], words: dict[str, Any]) -> Iterator[Spec]:
    frame = asked.analyze("super_experts")
    found = frame[frame["is_super"].fillna(False).astype(bool)]
    if len(found):
        yield acting(zip(found["layer"], found["expert"], strict=True), words)


RECIPE = Recipe(
    name="super_experts",
    title="Super experts",
    does="names the experts that the metric super_experts finds",
    source="arXiv 2507.23279 (without its few super experts a model breaks down)",
    action="ban",
    build=build,
    example="super_experts",
)
