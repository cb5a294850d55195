"""Doge: product keys. Two sets of √E logits; the score of expert (i, j) is the sum of one of each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from probes.families.adapted import bare
from probes.families.base import Family, Parameters, Rule
from probes.families.layout import Layout, Parts, Point

if TYPE_CHECKING:
    from probes.capture.tap import Tap


def choose(logits: Any, parameters: Parameters) -> tuple[Any, Any]:
    """`logits` [T, 2·√E]: those of the first keys, then those of the second."""
    keys = logits.shape[-1] // 2
    (first, first_ids), (second, second_ids) = (half.topk(keys, dim=-1) for half in logits.split(keys, dim=-1))
    every = (first[..., :, None] + second[..., None, :]).flatten(1)
    ids = (first_ids[..., :, None] * keys + second_ids[..., None, :]).flatten(1)
    best, at = every.topk(parameters["top_k"], dim=-1)
    weights = best.softmax(dim=-1)
    if parameters.get("normalise"):
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return ids.gather(1, at), weights


class ProductKey(Layout):
    """Experts are rows of two embeddings: expert e turns h into act(down[e]·h) · up[e]."""

    name = "product_key"
    reruns = False
    closed = True
    takes_choice = False

    def find(self, module: Any) -> Iterator[Parts]:
        children = dict(module.named_children())
        if {"router_gate", "down_embed", "up_embed"} <= children.keys():
            yield Parts(children["router_gate"], children["down_embed"], module)

    def num_experts(self, parts: Parts, logits: Any) -> int:
        return int(bare(parts.block).num_experts)

    def points(self, parts: Parts, tap: Tap) -> list[Point]:
        lookup = _Lookup(parts, tap)
        block = parts.block
        points = [
            Point(parts.router, "after", lookup.after_router),
            Point(block.down_embed, "after", lookup.after_down),
            Point(block.up_embed, "after", lookup.after_up),
        ]
        if tap.want.router_inputs:
            points.append(Point(parts.router, "before", tap.keep_router_input))
        if tap.examine:
            points += [Point(block.down_proj, "after", lookup.after_shared), Point(block, "after", lookup.after_block)]
        return points


class _Lookup:
    """Follows one pass through the block: logits, which rows were looked up, what the experts returned."""

    def __init__(self, parts: Parts, tap: Tap) -> None:
        self.block, self.tap = parts.block, tap
        self.kept: dict[str, Any] = {}

    def after_router(self, module: Any, args: Any, kwargs: Any, output: Any) -> None:
        if not self.tap.live:
            return
        import torch

        # The block splits the two key sets across tokens and not within one (upstream keeps it for its checkpoints).
        halves = output.reshape(2, -1, output.shape[-1] // 2)
        logits = torch.cat([halves[0], halves[1]], dim=-1)
        self.kept = {"hidden": args[0].reshape(-1, args[0].shape[-1]), "logits": logits}
        if self.tap.want.logits:
            self.tap.put("logits", logits)

    def after_down(self, module: Any, args: Any, kwargs: Any, output: Any) -> None:
        if self.kept:
            self.kept["ids"], self.kept["down"] = args[0], output

    def after_up(self, module: Any, args: Any, kwargs: Any, output: Any) -> None:
        if not self.kept:
            return
        ids, weights = self.kept["ids"], self._weights()
        self.tap.keep_choice(ids, weights)
        if self.tap.want.slots:
            self.tap.keep_input(self.kept["hidden"])
            outputs = self._activations()[..., None] * output
            self.tap.keep_slots(outputs, ids)
            if self.tap.examine:
                self.tap.put("combined", (outputs * weights[..., None]).sum(dim=1))
        self.kept = {}

    def _activations(self) -> Any:
        return self.block.act_fn((self.kept["down"] @ self.kept["hidden"][..., None])[..., 0])

    def _weights(self) -> Any:
        """Weights never leave the block, so its rule gives them: for the ids that were looked up, in their order."""
        parameters = {"top_k": self.kept["ids"].shape[-1], "normalise": self.block.norm_topk_prob}
        return choose(self.kept["logits"], parameters)[1]

    def after_shared(self, module: Any, args: Any, kwargs: Any, output: Any) -> None:
        self.shared = output

    def after_block(self, module: Any, args: Any, kwargs: Any, output: Any) -> None:
        if self.tap.live:
            routed = output[0] - self.shared
            self.tap.put("container", routed.reshape(-1, routed.shape[-1]))


RULE = Rule(
    name="product_key",
    formula="s(i, j) = z1[i] + z2[j]; ids = top-k(s); w = softmax(s[ids])",
    choose=choose,
    source="PEER, arXiv 2407.04153; Doge, transformers",
    needs="the logits of the two key sets: a file of one logit per expert does not hold them",
)

FAMILIES = (
    Family(
        "doge",
        RULE,
        tiny={"is_moe": True, "num_experts": 16},
        layout=ProductKey(),
        notes="logits are [T, 2·√E]; weights are recomputed by the rule, the ids are those looked up; "
        "upstream mixes the logits of different tokens in a full pass",
    ),
)
