"""Softmax over all experts; a correction bias decides who is chosen, the probabilities alone the weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from probes.families.base import CORRECTION_BIAS, Family, Parameters, Rule
from probes.families.layout import Layout, Parts, Point
from probes.families.scoring import biased, finished, scores

if TYPE_CHECKING:
    from probes.capture.tap import Tap


def choose(logits: Any, parameters: Parameters) -> tuple[Any, Any]:
    score = scores(logits, parameters)
    ids = biased(score, parameters).topk(parameters["top_k"], dim=-1).indices
    return ids, finished(score.gather(1, ids), parameters)


class TokenSubset(Layout):
    """ERNIE 4.5 VL: text and image tokens go to experts of their own, so a router sees only some of the rows.

    Which rows, only the block around both knows (`moe_mm_token_type_ids`: 0 is text; without it all rows are text).
    """

    name = "token_subset"
    closed = True

    def find(self, module: Any) -> Iterator[Parts]:
        children = dict(module.named_children())
        if {"text_moe", "vision_moe"} <= children.keys():
            for path, stream in (("text_moe", ""), ("vision_moe", "vision")):
                block = children[path]
                yield Parts(block.gate, block.experts, block, path, stream, outer=module)

    def points(self, parts: Parts, tap: Tap) -> list[Point]:
        def before(module: Any, args: Any, kwargs: Any) -> None:
            kinds = args[1] if len(args) > 1 else kwargs.get("moe_mm_token_type_ids")
            if tap.live and kinds is not None and kinds.any():
                image = kinds.reshape(-1).bool()
                tap.put("rows", image if parts.stream == "vision" else ~image)

        return [Point(parts.outer, "before", before), *super().points(parts, tap)]


RULE = Rule(
    name="softmax_bias",
    formula="p = softmax(z); ids = top-k(p + bias); w = p[ids] (divided by max(sum, minimum)) · scaling",
    choose=choose,
    defaults={"score": "softmax"},
    source="auxiliary-loss-free balancing, arXiv 2408.15664",
    needs=CORRECTION_BIAS,
)

ERNIE = {"normalise": True}

FAMILIES = (
    Family("ernie4_5_moe", RULE, gating=ERNIE),
    Family(
        "ernie4_5_vl_moe",
        RULE,
        gating=ERNIE,
        tiny={
            "moe_intermediate_size": [16, 16],
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
        },
        layout=TokenSubset(),
        model="Ernie4_5_VLMoeTextModel",
        notes="text and image tokens have experts of their own; the vision experts are a stream of their own and run "
        "only on image tokens",
    ),
    Family(
        "longcat_flash",
        RULE,
        official_since="5.19",
        gating={"normalise": False},
        tiny={"num_layers": 2, "ffn_hidden_size": 32, "expert_ffn_hidden_size": 16, "zero_expert_num": 2},
        notes="ids from n_routed_experts on are identity experts, which return their input",
    ),
)
