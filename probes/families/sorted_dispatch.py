"""JetMoE: the router hands out token slots sorted by expert; attention has experts too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from probes.families.base import Family, Rule
from probes.families.layout import Layout, Parts, Point
from probes.families.topk_softmax import choose

if TYPE_CHECKING:
    from probes.capture.tap import Tap

CHILDREN = {"router", "input_linear", "output_linear"}


class SortedDispatch(Layout):
    """The router returns (slot order, token of each slot, weights in that order, slots per expert, logits).

    The attention's experts are never called as a module (`map` and `reduce` are), only their linear layers are.
    """

    name = "sorted_dispatch"
    reruns = False
    closed = True
    takes_choice = False

    def find(self, module: Any) -> Iterator[Parts]:
        children = dict(module.named_children())
        if children.keys() >= CHILDREN:
            yield Parts(children["router"], children["output_linear"], module, outer=module)
        inner = children.get("experts")
        if inner is not None and dict(inner.named_children()).keys() >= CHILDREN:
            yield Parts(inner.router, inner.output_linear, inner, "experts", "attention", outer=module)

    def points(self, parts: Parts, tap: Tap) -> list[Point]:
        slots = _Slots(parts, tap)
        points = [Point(parts.router, "after", slots.after_router)]
        if tap.want.router_inputs:
            points.append(Point(parts.router, "before", tap.keep_router_input))
        if tap.want.slots:
            points.append(Point(parts.experts, "after", slots.after_experts))
        return [*points, Point(parts.outer, "after", slots.after_block)] if tap.examine else points


class _Slots:
    """Puts what is sorted by expert back into the order of the tokens."""

    def __init__(self, parts: Parts, tap: Tap) -> None:
        self.parts, self.tap = parts, tap
        self.order: Any = None
        self.ids: Any = None
        self.weights: Any = None

    def after_router(self, module: Any, args: Any, kwargs: Any, output: Any) -> None:
        if not self.tap.live:
            return
        import torch

        self.order, _, weights, sizes, logits = output
        experts = torch.arange(len(sizes), device=logits.device)
        ids = experts.repeat_interleave(torch.tensor(sizes, device=logits.device), output_size=len(self.order))
        self.ids, self.weights = (self._by_token(v, len(logits)) for v in (ids, weights))
        if self.tap.want.logits:
            self.tap.put("logits", logits)
        self.tap.keep_choice(self.ids, self.weights)
        self.tap.keep_input(args[0])

    def after_experts(self, module: Any, args: Any, kwargs: Any, output: Any) -> None:
        if self.tap.live and self.order is not None:
            outputs = self._by_token(output, len(self.ids))
            self.tap.keep_slots(outputs, self.ids)
            if self.tap.examine:
                self.tap.put("combined", (outputs * self.weights[..., None]).sum(dim=1))

    def after_block(self, module: Any, args: Any, kwargs: Any, output: Any) -> None:
        result = output[0] if isinstance(output, tuple) else output
        self.tap.put("container", result.reshape(-1, result.shape[-1]) - self.parts.block.bias)

    def _by_token(self, values: Any, tokens: int) -> Any:
        back = values.new_empty(values.shape)
        back[self.order] = values
        return back.view(tokens, -1, *values.shape[1:])


RULE = Rule(
    name="sorted_dispatch",
    formula="ids = top-k(z); w = softmax(z[ids])",
    choose=choose,
    source="JetMoE, arXiv 2404.07413",
)

FAMILIES = (
    Family(
        "jetmoe",
        RULE,
        tiny={"kv_channels": 8, "num_key_value_heads": 2, "num_attention_heads": 4},
        layout=SortedDispatch(),
        notes="routes attention too: those routers are the stream 'attention', numbered after the last layer",
    ),
)
