"""Next-token losses of left- or right-padded batches, each sequence for itself."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from probes.errors import ProbeError


def forward_inputs(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, Any]:
    """Arguments for one pass over everything, with positions that do not count padding."""
    inputs = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
    if "position_ids" in inspect.signature(model.forward).parameters:
        inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    return inputs


def next_token_loss(logits: torch.Tensor, ids: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy [B] of the tokens `wanted` [B, S] given those before them; 0 where none is wanted.

    logits [B, S, V], ids [B, S]. The first position has nothing before it and never counts.
    """
    aim = wanted[:, 1:].to(logits.dtype if logits.dtype == torch.float64 else torch.float32)
    each = torch.nn.functional.cross_entropy(
        logits[:, :-1].float().transpose(1, 2), ids[:, 1:].to(logits.device), reduction="none"
    )
    return (each * aim).sum(1) / aim.sum(1).clamp(min=1)


def predicted(mask: torch.Tensor) -> torch.Tensor:
    """bool [B, S]: tokens that have a token before them."""
    wanted = mask.bool().clone()
    wanted[:, 1:] &= mask[:, :-1].bool()
    wanted[:, 0] = False
    return wanted


def sequences(site: Any, z: torch.Tensor) -> torch.Tensor:
    """int [T]: which sequence each row of z [T, E] belongs to. ProbeError where a layer sees only some of them."""
    assert site.forward is not None
    rows = site.forward.sequence
    if len(rows) != len(z):
        raise ProbeError(f"layer {site.layer} sees {len(z)} of {len(rows)} tokens, and not which: vectors need to know")
    return rows.to(z.device)
