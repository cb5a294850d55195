"""Llama 4: the sigmoid of the chosen logits scales the experts' INPUT, and every expert runs on every token."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from probes.families.adapted import bare
from probes.families.base import Family, Rule
from probes.families.layout import Layout, Parts, Point
from probes.families.topk_softmax import choose

if TYPE_CHECKING:
    from probes.capture.tap import Tap


class DenseScores(Layout):
    """The router returns (dense scores [T, E], logits); the experts get E weighted copies of the input, and no ids."""

    name = "dense_scores"
    reruns = False
    takes_choice = False

    def find(self, module: Any) -> Iterator[Parts]:
        return (p for p in super().find(module) if _takes_only_hidden(p.experts))

    def logits(self, output: Any) -> Any:
        return output[1]

    def points(self, parts: Parts, tap: Tap) -> list[Point]:
        chosen: list[Any] = []

        def after_router(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            if tap.live:
                scores, logits = output
                ids = _chosen(scores, logits)
                chosen[:] = [ids]
                if tap.want.logits:
                    tap.put("logits", logits)
                tap.keep_choice(ids, scores.gather(1, ids))
                tap.keep_input(args[0])

        def after_experts(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            if tap.live and chosen:
                ids = chosen.pop()
                every = output.view(-1, len(ids), output.shape[-1])
                outputs = every.transpose(0, 1).gather(1, ids[..., None].expand(-1, -1, output.shape[-1]))
                tap.keep_slots(outputs, ids)
                if tap.examine:
                    tap.put("container", every.sum(dim=0))
                    tap.put("combined", outputs.sum(dim=1))

        points = [Point(parts.router, "after", after_router)]
        if tap.want.router_inputs:
            points.append(Point(parts.router, "before", tap.keep_router_input))
        return [*points, Point(parts.experts, "after", after_experts)] if tap.want.slots else points


def _chosen(scores: Any, logits: Any) -> Any:
    """Ids [T, k]: the experts with a score; the others' is the sigmoid of −∞."""
    top_k = int((scores > 0).sum(dim=1).max())
    return logits.masked_fill(scores == 0, float("-inf")).topk(max(1, top_k), dim=1).indices


def _takes_only_hidden(experts: Any) -> bool:
    arguments = inspect.signature(bare(experts).forward).parameters.values()
    return [a.kind for a in arguments] == [inspect.Parameter.POSITIONAL_OR_KEYWORD]


RULE = Rule(
    name="dense_scores",
    formula="ids = top-k(z); w = sigmoid(z[ids]); expert e gets w·h",
    choose=choose,
    defaults={"weigh": "sigmoid"},
    source="Llama 4, transformers",
)

FAMILIES = (
    Family(
        "llama4",
        RULE,
        official_since="5.19",
        tiny={"intermediate_size_mlp": 32, "interleave_moe_layer_step": 1},
        layout=DenseScores(),
        notes="the weight scales the experts' input, so output norms already contain it",
    ),
)
