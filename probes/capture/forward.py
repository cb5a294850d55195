"""One recorded forward pass, on the host: which rows are which tokens, and what every layer did with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from probes.routing import Routing

if TYPE_CHECKING:
    from probes.capture.inputs import Inputs

PREFILL, DECODE = "prefill", "decode"


@dataclass(frozen=True)
class Hidden:
    """The residual stream at one MoE layer, per token [T], float32. h: before the experts, r: what they returned.

    similarity  cosine of h and h + r
    absmax      largest absolute component of h
    absmedian   median absolute component of h
    """

    similarity: np.ndarray
    absmax: np.ndarray
    absmedian: np.ndarray


@dataclass(frozen=True)
class Shared:
    """The shared expert of one MoE layer, per token [T], float32.

    absmax        largest absolute component of what it returned
    input_absmax  largest absolute component of what it received
    """

    absmax: np.ndarray
    input_absmax: np.ndarray


@dataclass(frozen=True)
class Forward:
    """One forward pass of B sequences and S positions each. Rows of the routing are B*S, batch-major.

    mask        bool [B, S]  real tokens; False is padding (and the virtual tokens of prompt tuning)
    position    int [B, S]   position within the sequence, padding not counted; -1 at padding
    phase       "prefill" or "decode"; "mixed" where some tokens of the pass were read and others written
    decoded     bool [B, S]  written by the model itself; None: the same for all, as `phase` says
    routing     layer -> Routing of NumPy arrays; where a router saw no token (padding dropped by the model, tokens of
                another modality) experts are -1 and floats NaN
    missing     layer -> why it has no routing in this pass
    hidden, router_inputs, shared, expert_norm  layer -> what was asked for
    stream      "mlp" usually; "encoder" for the encoder's own passes of an encoder-decoder model
    """

    batch: int
    length: int
    mask: np.ndarray
    position: np.ndarray
    phase: str
    routing: dict[int, Routing]
    logits_bf16: bool = False
    missing: dict[int, str] = field(default_factory=dict)
    hidden: dict[int, Hidden] = field(default_factory=dict)
    router_inputs: dict[int, np.ndarray] = field(default_factory=dict)
    shared: dict[int, Shared] = field(default_factory=dict)
    expert_norm: dict[int, np.ndarray] = field(default_factory=dict)
    stream: str = "mlp"
    decoded: np.ndarray | None = None


def decoded(inputs: Inputs) -> np.ndarray:
    """bool [B, S]: tokens that the model wrote itself (see `Inputs.written_from`)."""
    return np.broadcast_to(np.arange(inputs.length) >= inputs.written_from, (inputs.batch, inputs.length))


def located_in(inputs: Inputs, mask: Any, position_ids: Any) -> tuple[np.ndarray, np.ndarray, str]:
    """`locate` of a pass; virtual tokens before the text are counted as padding."""
    real, position, _ = locate(inputs.batch, inputs.length, mask, position_ids, inputs.past)
    if inputs.virtual:
        position = position - inputs.virtual
        real = real & (position >= 0)
        position = np.where(real, position, -1)
    return real, position, inputs.phase


def locate(batch: int, length: int, mask: Any, position_ids: Any, past: int) -> tuple[np.ndarray, np.ndarray, str]:
    """(mask [B, S], position [B, S], phase) of a pass whose cache held `past` positions.

    A mask with padding decides, because position ids given by hand often count padding; without padding the
    position ids decide (packed sequences start again at 0); without either, positions go on from the cache.
    """
    full = (
        np.ones((batch, length), bool)
        if mask is None
        else np.broadcast_to(np.asarray(mask).astype(bool), (batch, mask.shape[1]))
    )
    past = max(past, full.shape[1] - length)
    real = full[:, full.shape[1] - length :]
    if position_ids is not None and full.all():
        position = np.broadcast_to(position_ids, (batch, length)).astype(np.int64)
    else:
        position = full.cumsum(axis=1)[:, full.shape[1] - length :] - 1
        position = position + (past if full.shape[1] == length else 0)
    return real, np.where(real, position, -1), DECODE if past > 0 and length == 1 else PREFILL
