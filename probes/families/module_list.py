"""Older and remote code: experts are a `ModuleList`, called one by one with gathered tokens; the gate may be a Linear.

No family of transformers 5 looks like this. What the gate returns is told apart by dtype and shape: integers are ids, a
float of the same shape weights, a wider float logits. Outputs cannot be had: an expert sees rows, but not which.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from probes.families.layout import Layout, Parts, Point, classify

if TYPE_CHECKING:
    from probes.capture.tap import Tap


class ModuleListExperts(Layout):
    """Only the gate is hooked; ids and weights are known where it returns them."""

    name = "module_list"
    takes_choice = False

    def find(self, module: Any) -> Iterator[Parts]:
        return (p for p in super().find(module) if hasattr(p.experts, "append"))

    def points(self, parts: Parts, tap: Tap) -> list[Point]:
        def after(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            if not tap.live:
                return
            found = classify(output)
            if tap.want.logits and found.logits is not None:
                tap.put("logits", found.logits)
            if found.ids is not None and found.weights is not None:
                tap.keep_choice(found.ids, found.weights)

        points = [Point(parts.router, "after", after)]
        return [*points, Point(parts.router, "before", tap.keep_router_input)] if tap.want.router_inputs else points


LAYOUT = ModuleListExperts()
