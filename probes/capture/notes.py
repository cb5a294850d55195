"""What about a model decides how far a recording of it can be trusted, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from probes.families.initialised import note_of

if TYPE_CHECKING:
    from probes.capture.report import LayerReport


def notes(model: Any, layers: Sequence[LayerReport]) -> Iterator[str]:
    """One sentence each, only those that apply."""
    yield from _code(model, layers)
    yield from _weights(model)
    yield from _plain_experts(model, layers)
    yield from note_of(model)
    if getattr(model, "use_kernels", False):
        yield "hub kernels are in use and may replace routers or experts; load it with use_kernels=False"
    if getattr(getattr(model, "generation_config", None), "cache_implementation", None) == "static":
        yield "with a static cache, generation compiles on CUDA and then ignores hooks: pass disable_compile=True"
    twice = [r for r in layers if r.twice]
    if twice:
        yield (
            f"expert outputs of {len(twice)} layers need a second run of the experts, because theirs sum in an order "
            "of their own: norms, outputs and moments cost that time; the model's output stays bit-identical"
        )
    if any(r.outputs and r.mode != "observe" for r in layers):
        yield "the model's output stays bit-identical while expert outputs are recorded (checked on the test tokens)"


def _code(model: Any, layers: Sequence[LayerReport]) -> Iterator[str]:
    if type(model).__module__.startswith("transformers_modules"):
        yield "it runs code of its own; only what this test saw is guaranteed"
    if any(r.found.family is None for r in layers):
        yield "its architecture is not one we know: where its tensors are was inferred from dtypes and shapes"


def _weights(model: Any) -> Iterator[str]:
    quantization = getattr(getattr(model, "config", None), "quantization_config", None)
    if quantization is not None:
        known = quantization if isinstance(quantization, dict) else vars(quantization)
        method = getattr(known.get("quant_method"), "value", known.get("quant_method"))
        yield f"its weights are quantised ({method}): what is recorded is the quantised model's"
        if method == "mxfp4":
            yield "MXFP4 kernels pass by its routers and experts: load it with Mxfp4Config(dequantize=True)"
    if any(p.device.type == "meta" for p in model.parameters()):
        yield "some weights are offloaded; they are on their device only while they run"
    if len({p.device for p in model.parameters()}) > 1:
        yield "it is spread over several devices; each pass is collected from all of them"


def _plain_experts(model: Any, layers: Sequence[LayerReport]) -> Iterator[str]:
    """Quantizers that look for `nn.Linear` skip 3-D experts (findings/quantizers_skip_moe_experts.sh)."""
    experts = {id(p): p for r in layers for p in r.found.parts.experts.parameters()}
    if not experts or any(_is_quantized(p) for p in experts.values()):
        return
    if any(_is_quantized(p) for p in model.parameters() if id(p) not in experts):
        dtypes = sorted({str(p.dtype).removeprefix("torch.") for p in experts.values()})
        yield f"its experts are not quantised: their weights are {', '.join(dtypes)}; other weights are quantised"


def _is_quantized(parameter: Any) -> bool:
    """Whether a parameter holds integers, or is of a tensor class of a quantizer's own."""
    import torch

    own = {type(parameter), type(parameter.data)} - {torch.Tensor, torch.nn.Parameter}
    return bool(own) or not parameter.is_floating_point()
