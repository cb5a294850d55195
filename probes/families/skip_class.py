"""One class more than experts: a token whose best class is the last one skips the experts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from probes.families.adapted import bare
from probes.families.base import CORRECTION_BIAS, Family, Parameters, Rule
from probes.families.layout import Layout, Parts, Point
from probes.families.scoring import biased

if TYPE_CHECKING:
    from probes.capture.tap import Tap


def choose(logits: Any, parameters: Parameters) -> tuple[Any, Any]:
    probabilities = logits.softmax(dim=-1)
    ids = biased(probabilities.float(), parameters).topk(parameters["top_k"], dim=-1).indices
    return ids, probabilities.gather(1, ids).masked_fill(ids == logits.shape[-1] - 1, 0.0)


class SkipClass(Layout):
    """A skipped token reaches the experts as id 0 with weight 0; it is recorded as the class it chose, output 0."""

    name = "skip_class"

    def find(self, module: Any) -> Iterator[Parts]:
        return (p for p in super().find(module) if hasattr(bare(p.router), "num_router_classes"))

    def points(self, parts: Parts, tap: Tap) -> list[Point]:
        tap.skip_class = bare(parts.router).num_router_classes - 1
        return super().points(parts, tap)


RULE = Rule(
    name="skip_class",
    formula="p = softmax(z over E + 1); id = arg max(p + bias); w = p[id]; the last class means no expert, w = 0",
    choose=choose,
    source="transformers, zaya",
    needs=CORRECTION_BIAS,
)

FAMILIES = (
    Family(
        "zaya",
        RULE,
        tiny={"num_experts_per_tok": 1, "moe_topk": 1, "num_key_value_heads": 2, "router_hidden_size": 16},
        layout=SkipClass(),
        notes="the last id is the class 'skip': no expert runs, weight and output are 0",
    ),
)
