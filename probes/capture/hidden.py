"""The residual stream around the experts: how far what they return turns it, and how large its largest component is.

h is the input of the norm that feeds the block, r what the experts container returned. Which norm that is, is found
by running: it is the one, outside the block, whose output is the very tensor the experts (or the router) received.
"""

from __future__ import annotations

from typing import Any

import torch

from probes.capture.discovery import MoELayer
from probes.capture.tap import Tap, absmax
from probes.families.layout import Point


def norms_around(model: Any, found: MoELayer) -> list[Any]:
    """Norm modules of the decoder layer that holds the block, outside the block and its experts."""
    words = found.module.split(".")
    at = next((i for i, word in enumerate(words) if word.isdigit()), -1)
    layer = model.get_submodule(".".join(words[: at + 1]))
    inside = {id(m) for m in found.parts.block.modules()} if found.parts.block is not layer else set()
    return [m for m in layer.modules() if "norm" in type(m).__name__.lower() and id(m) not in inside]


def watch_norms(norms: list[Any], tap: Tap) -> list[Point]:
    """For the self-test: remember which norm returned which tensor (the tensors too, so no address is used twice)."""

    def after(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        if tap.live and isinstance(output, torch.Tensor):
            tap.normed.append((module, output))

    return [Point(norm, "after", after) for norm in norms]


def residual_norm(tap: Tap) -> Any:
    """The norm whose output the experts or the router received, and the experts' output fits; None if there is none."""
    if "experts_input" not in tap.kept:
        return None  # a layout whose experts container does not return their weighted sum
    container = tap.kept["container"][-1]
    for name in ("experts_input", "router_inputs"):
        for module, output in tap.normed:
            if output.data_ptr() == tap.kept[name][-1].data_ptr():
                return module if container.numel() == output.numel() else None
    return None


def hidden_points(norm: Any, found: MoELayer, tap: Tap) -> list[Point]:
    """Hooks that measure the residual stream. To be registered after those that may replace the experts' output."""
    before_experts: list[torch.Tensor] = []

    def before(module: Any, args: Any, kwargs: Any) -> None:
        if tap.live:
            before_experts[:] = [args[0] if args else next(iter(kwargs.values()))]

    def after(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        if before_experts and tap.live:
            _measure(tap, before_experts.pop(), output)

    return [Point(norm, "before", before), Point(found.parts.experts, "after", after)]


def _measure(tap: Tap, residual: torch.Tensor, returned: torch.Tensor) -> None:
    rows = residual.detach().reshape(-1, residual.shape[-1])
    after = rows.float() + returned.detach().reshape(rows.shape).float()
    tap.put("similarity", torch.nn.functional.cosine_similarity(rows.float(), after, dim=-1))
    tap.put("absmax", absmax(rows))
    tap.put("absmedian", rows.abs().median(dim=-1).values)
