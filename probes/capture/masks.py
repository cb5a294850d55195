"""Which positions are padding, from the masks a model may be given: [B, K], [B, 1, S, K], or one per kind of attention.

Generation with a compilable cache (static, sliding) hands the model 4-D attention patterns, and some models hand
their text part a pattern for each kind of attention. A token attends to itself, so a query whose own key is masked is
padding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from probes.errors import ProbeError

if TYPE_CHECKING:
    from probes.capture.inputs import Level

NAMES = ("attention_mask", "decoder_attention_mask")
MASKED = -9e3  # additive masks: what is at or below it takes no part; the penalties of ALiBi lie above


def padding_mask(
    calls: Sequence[Level], generating: Sequence[Level], batch: int, length: int, past: int, virtual: int = 0
) -> Any:
    """[B, K], K >= S: which positions up to the end of the pass are tokens; None: all.

    calls: the pass's own call first, then those around it; generating: the calls of `generate` around them, from the
    outermost. ProbeError for a mask of a kind that cannot be read, where no other one tells.
    """
    masks = [tensor_of(level.given.get(name)) for level in calls for name in NAMES]
    masks = [mask for mask in masks if mask is not None]
    flat = next((m for m in masks if getattr(m, "ndim", 0) == 2 and m.shape[0] in (1, batch)), None)
    if flat is not None and flat.shape[1] >= length:
        return flat
    patterns = [m for m in masks if getattr(m, "ndim", 0) in (3, 4) and m.shape[-2] >= length]
    for pattern in patterns:
        if pattern.shape[-1] >= past + length:
            return from_pattern(pattern, batch, length, past)
    told = _told(generating, batch, past + length, virtual)
    if told is not None or not masks:
        return told
    if patterns:  # the keys of a sliding window: the last ones before the end of the pass
        return _from_window(patterns[0], batch, length, past)
    kind = type(masks[0]).__name__
    raise ProbeError(f"the attention mask is a {kind}, which does not say what is padding; give a mask [batch, tokens]")


def tensor_of(mask: Any) -> Any:
    """The mask itself; of several kinds of attention that of full attention, or another one."""
    if not isinstance(mask, Mapping):
        return mask
    full = mask.get("full_attention")
    return full if full is not None else next((m for m in mask.values() if m is not None), None)


def from_pattern(pattern: Any, batch: int, length: int, past: int) -> Any:
    """bool [B, past + S] of a pattern [B, 1, S, K], bool or additive, whose first key is the text's first position."""
    import torch

    allowed = _allowed(pattern)[:, -length:, : past + length].expand(batch, -1, -1)
    own = allowed.diagonal(past, dim1=1, dim2=2)
    return torch.cat([allowed[:, :, :past].any(1), own], 1)


def _from_window(pattern: Any, batch: int, length: int, past: int) -> Any:
    """The same of a pattern over the last K positions only; what lies before them is taken for tokens."""
    import torch

    before = past + length - pattern.shape[-1]
    mask = from_pattern(pattern, batch, length, past - before)
    return torch.cat([mask.new_ones(batch, before), mask], 1)


def _allowed(pattern: Any) -> Any:
    """bool [B, S, K]: is the key seen, by any head?"""
    import torch

    allowed = pattern if pattern.dtype == torch.bool else pattern > MASKED
    return allowed.any(1) if allowed.ndim == 4 else allowed


def _told(generating: Sequence[Level], batch: int, end: int, virtual: int) -> Any:
    """[B, end] from the mask given to `generate`; virtual tokens before it and all that is written are 1."""
    import torch

    for level in generating:
        mask = tensor_of(level.given.get("attention_mask"))
        if getattr(mask, "ndim", 0) != 2 or batch % mask.shape[0] or virtual + mask.shape[1] > end:
            continue
        wide = mask.repeat_interleave(batch // mask.shape[0], 0)  # beams, and several texts per prompt
        after = wide.new_ones(batch, end - virtual - wide.shape[1])
        return torch.cat([wide.new_ones(batch, virtual), wide, after], 1)
    return None
