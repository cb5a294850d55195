"""Switch Transformers and NLLB-MoE: dispatch masks, and an expert that is full drops tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from probes.families.adapted import bare
from probes.families.base import Family, Parameters, Rule
from probes.families.layout import Layout, Parts, Point

if TYPE_CHECKING:
    from probes.capture.tap import Tap


def choose(logits: Any, parameters: Parameters) -> tuple[Any, Any]:
    """The expert a token asks for; whether it had room for the token depends on the tokens before it."""
    weights, ids = logits.float().softmax(dim=-1).max(dim=-1, keepdim=True)
    return ids, weights


class OneHot(Layout):
    """The router returns (one-hot mask [B, S, E], weight [B, S, 1], logits [B, S, E]); experts are a dict of MLPs."""

    name = "one_hot"
    takes_choice = False

    def find(self, module: Any) -> Iterator[Parts]:
        return (p for p in super().find(module) if hasattr(p.experts, "keys") and hasattr(bare(p.router), "classifier"))

    def points(self, parts: Parts, tap: Tap) -> list[Point]:
        def after_router(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            if tap.live and tap.want.logits:
                tap.put("logits", output[2].reshape(-1, output[2].shape[-1]))

        def after_experts(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            if not tap.live:
                return
            hidden, mask, weights = args
            served, ids = mask.max(dim=-1)  # [T, 1]: a token that was dropped has an empty mask
            ids = ids.masked_fill(served == 0, -1)
            tap.keep_choice(ids, weights.masked_fill(served == 0, 0.0))
            if tap.want.slots:
                tap.keep_input(hidden)
                outputs = module.forward(hidden, mask, weights.new_ones(weights.shape)).detach()[:, None]
                tap.keep_slots(outputs, ids)
            if tap.examine:
                tap.put("container", output)
                tap.put("experts_input", hidden)
                tap.put("combined", outputs[:, 0] * weights)

        points = [Point(parts.router, "after", after_router), Point(parts.experts, "after", after_experts)]
        return [*points, Point(parts.router, "before", tap.keep_router_input)] if tap.want.router_inputs else points


RULE = Rule(
    name="one_hot",
    formula="p = softmax(z); id = arg max(p); w = p[id]; a token beyond the expert's capacity is dropped",
    choose=choose,
    source="Switch Transformers, arXiv 2101.03961",
    needs="which tokens came before in the batch: an expert that is full drops tokens",
)

LAYOUT = OneHot()
BROKEN = (
    "broken in transformers 5.23: its experts read a 0/1 mask as ids, so only experts 0 and 1 ever run; "
    "what would be recorded is not what the model was trained to do"
)

FAMILIES = (
    Family(
        "nllb_moe",
        RULE,
        config="nllb-moe",
        tiny={
            "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
            "decoder_attention_heads": 4, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "encoder_sparse_step": 1,
            "decoder_sparse_step": 1, "decoder_start_token_id": 1, "router_dtype": "float32",
        },
        layout=LAYOUT,
        limits={"all": BROKEN},
    ),
    Family(
        "switch_transformers",
        RULE,
        tiny={
            "d_model": 32, "d_kv": 8, "d_ff": 16, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4,
            "num_sparse_encoder_layers": 2, "num_sparse_decoder_layers": 2, "expert_capacity": 64,
            "decoder_start_token_id": 0,
        },
        layout=LAYOUT,
        notes="a dropped token has id -1; encoder and decoder are passes of their own",
    ),
)  # fmt: skip
