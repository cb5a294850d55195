"""Models and a tokenizer of a stated shape, with random weights: built from configurations, nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

FAMILIES = ("OLMoE", "Qwen3-MoE")


@dataclass(frozen=True)
class Shape:
    """Sizes of a mixture-of-experts decoder; `expert_width` is the width of one expert's inner layer."""

    hidden: int = 256
    layers: int = 8
    experts: int = 64
    top_k: int = 8
    expert_width: int = 128
    heads: int = 4
    kv_heads: int = 4
    head_dim: int = 64
    vocabulary: int = 8192
    positions: int = 4096

    def __str__(self) -> str:
        return (
            f"hidden {self.hidden}, {self.layers} layers, {self.experts} experts of width {self.expert_width}, "
            f"top-{self.top_k}, vocabulary {self.vocabulary:,}"
        )


STATED = Shape()
TINY = Shape(hidden=32, layers=2, experts=8, top_k=2, expert_width=16, heads=2, kv_heads=2, head_dim=16, vocabulary=128)


def build(family: str, shape: Shape, dtype: str = "float32", device: str = "cpu") -> Any:
    """A model of that family and shape in evaluation mode, initialised from seed 0 on its device."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(_config(family, shape), dtype=getattr(torch, dtype))
    return model.eval()


def _config(family: str, shape: Shape) -> Any:
    from transformers import OlmoeConfig, Qwen3MoeConfig

    common: dict[str, Any] = {
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "num_experts": shape.experts,
        "num_experts_per_tok": shape.top_k,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": shape.positions,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": None,  # nothing stops generation early, so every variant does the same work
    }
    if family == "OLMoE":
        return OlmoeConfig(intermediate_size=shape.expert_width, **common)
    return Qwen3MoeConfig(
        moe_intermediate_size=shape.expert_width,
        intermediate_size=4 * shape.expert_width,
        head_dim=shape.head_dim,
        **common,
    )


def tokens(model: Any, batch: int, length: int) -> torch.Tensor:
    """Random token ids [batch, length] on the model's device, the same for every call."""
    import torch

    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, model.config.vocab_size, (batch, length), generator=generator)
    return ids.to(model.device)


def prefill(model: Any, ids: torch.Tensor, call: Callable[..., Any] | None = None) -> Callable[[], Any]:
    """One forward pass over `ids` without a cache; by `call(input_ids=, use_cache=)` where given."""
    import torch

    forward = call or model

    def work() -> Any:
        with torch.no_grad():
            forward(input_ids=ids, use_cache=False)
        _wait(model)

    return work


def generation(model: Any, ids: torch.Tensor, new_tokens: int) -> Callable[[], Any]:
    """Greedy `generate` of `new_tokens` after `ids`: what a user runs."""
    import torch
    from transformers import GenerationConfig

    # Hooks that come after a compilation are ignored, so recording turns it off; the plain run gets the same.
    config = GenerationConfig(do_sample=False, max_new_tokens=new_tokens, pad_token_id=0, disable_compile=True)
    mask = torch.ones_like(ids)

    def work() -> Any:
        with torch.no_grad():
            model.generate(inputs=ids, attention_mask=mask, generation_config=config)
        _wait(model)

    return work


def decode_steps(
    model: Any, ids: torch.Tensor, steps: int, call: Callable[..., Any] | None = None
) -> Callable[[], Any]:
    """`steps` single-token forward passes after a cached `ids`, without the machinery of `generate` around them.

    `call(input_ids=, past_key_values=, use_cache=)` is called in place of the model where given.
    """
    import torch
    from transformers import DynamicCache

    cache, forward = DynamicCache(config=model.config), call or model
    with torch.no_grad():
        model(input_ids=ids, past_key_values=cache, use_cache=True)
    one = ids[:, -1:]

    def work() -> Any:
        with torch.no_grad():
            for _ in range(steps):
                forward(input_ids=one, past_key_values=cache, use_cache=True)
        cache.crop(-steps)
        _wait(model)

    return work


def _wait(model: Any) -> None:
    """Let an accelerator finish what was queued: the clock must not stop before the work does."""
    if model.device.type == "cuda":
        import torch

        torch.cuda.synchronize()


def word_tokenizer(size: int) -> Any:
    """A tokenizer of `size` made-up words (`w1 w2 …`), one token each: a text's length in tokens is known."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<pad>": 0} | {f"w{i}": i for i in range(1, size)}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", unk_token="<pad>")
