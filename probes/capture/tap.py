"""What one MoE layer gives off during one forward pass, kept on the device until the pass is over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import get_ident
from typing import Any

import torch

from probes.capture.moments import Moments
from probes.capture.want import Want
from probes.routing import LOST

OBSERVE, REWRITE, INSIDE = "observe", "rewrite", "inside"
# Outputs of up to so many numbers per layer wait for the end of the pass (see `probes.capture.late`).
SMALL = 1 << 16


@dataclass
class Session:
    """The forward pass that is being recorded, shared by the taps it runs through.

    `thread` is the thread whose pass is recorded, None between passes: hooks are global to the model, and what
    another thread runs through it meanwhile is not ours. `real` is bool [B*S], which rows are tokens and not padding.
    `missed` counts what hooks saw of the owner's thread outside of a pass.
    """

    thread: int | None = None
    real: Any = None
    owner: int = field(default_factory=get_ident)
    missed: int = 0
    aside: bool = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What runs meanwhile is ours, and not to be recorded."""
        thread, self.thread, self.aside = self.thread, None, True
        try:
            yield
        finally:
            self.thread, self.aside = thread, False


@dataclass
class Tap:
    """Collects what the hooks of one layer see. Lists, because a model may run a layer in several pieces.

    mode       how expert outputs are had: "inside" sees them where the experts weight them, "rewrite" replaces the
               experts' call by the expanded one, "observe" runs the expanded one a second time
    padded     the container cannot take one slot per row (LongCat's squeezes that axis away), so it gets two
    copy       the model changes what it handed out in place, so it is copied at once
    examine    keep also what the self-test compares
    skip_class the id to record where the weight is exactly 0, for families that let a token skip the experts
    drops      a weight of exactly 0 means that the slot was dropped: -2 is recorded in place of an expert
    max_bytes  largest expanded input to hold at once; longer passes are observed in pieces
    """

    want: Want
    session: Session
    mode: str = OBSERVE
    padded: bool = False
    copy: bool = False
    examine: bool = False
    max_bytes: int = 1 << 30
    num_experts: int = 0
    skip_class: int | None = None
    drops: bool = False
    kept: dict[str, list[Any]] = field(default_factory=dict)
    moments: Moments | None = None
    handed: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)
    normed: list[tuple[Any, torch.Tensor]] = field(default_factory=list)
    trouble: str = ""

    @property
    def live(self) -> bool:
        """Is this the pass, and the thread, that is being recorded?"""
        session, thread = self.session, get_ident()
        if session.thread == thread:
            return True
        session.missed += session.owner == thread and not session.aside
        return False

    def put(self, name: str, value: torch.Tensor) -> None:
        if value.requires_grad:
            value = value.detach()
        if self.examine:
            self.handed.append((value, value.clone()))
        self.kept.setdefault(name, []).append(value.clone() if self.copy else value)

    @property
    def changed(self) -> bool:
        """Did the model change, after handing it out, a tensor that was kept? Only known when examining."""
        return any(not torch.equal(value.nan_to_num(), copy.nan_to_num()) for value, copy in self.handed)

    def keep_logits(self, logits: torch.Tensor) -> None:
        """Router logits [T, E]."""
        if self.live:
            self.put("logits", logits)

    def keep_choice(self, experts: torch.Tensor, weights: torch.Tensor) -> None:
        """Ids [T, k] and weights [T, k] as the experts received them."""
        if self.skip_class is not None:
            experts = experts.masked_fill(weights == 0, self.skip_class)
        elif self.drops:
            experts = experts.masked_fill(weights == 0, LOST)
        self.put("experts", experts)
        self.put("weights", weights)

    def keep_router_input(self, module: Any, args: Any, kwargs: Any) -> None:
        """What the router is about to receive."""
        if self.live:
            value = args[0] if args else next(iter(kwargs.values()))
            self.put("router_inputs", value.reshape(-1, value.shape[-1]))

    def keep_input(self, hidden: torch.Tensor) -> None:
        """The experts' input [T, H], of which only the largest absolute component is kept."""
        if self.want.norms:
            self.put("input_absmax", absmax(hidden))

    def keep_slots(self, outputs: torch.Tensor, experts: torch.Tensor, start: int = 0) -> None:
        """Outputs [t, k, H] of the chosen experts [t, k] before weighting, of the rows from `start` on."""
        if self.skip_class is not None:
            skipped = self.kept["experts"][-1][start : start + len(outputs)] == self.skip_class
            outputs, experts = outputs.masked_fill(skipped[..., None], 0), experts.masked_fill(skipped, self.skip_class)
        elif self.drops:
            experts = self.kept["experts"][-1][start : start + len(outputs)]
        if self.want.norms:
            self.put("output_norm", norm(outputs))
            self.put("output_absmax", absmax(outputs))
        if self.want.outputs:
            self.put("outputs", outputs)
        if self.want.moments:
            self._add_moments(outputs.detach(), experts, start)

    @property
    def _only_norms(self) -> bool:
        return not (self.want.outputs or self.want.moments) and self.skip_class is None

    def waits(self, outputs: torch.Tensor) -> bool:
        """Are these outputs to be reduced together with those of other layers, when the pass is over?"""
        return self._only_norms and outputs.numel() <= SMALL

    def keep_sorted(self, outputs: torch.Tensor, order: torch.Tensor | None, hidden: torch.Tensor, ids: Any) -> None:
        """Outputs [T*k, H] of ids [T, k] as the experts have them; `order` says which slot each row is."""
        if self.waits(outputs):
            self.put("late_outputs", outputs)
            self.put("late_inputs", hidden)
            if order is not None:
                self.put("late_order", order)
            return
        self.keep_input(hidden)
        if not self._only_norms:
            self.keep_slots(in_place(outputs, order).view(*ids.shape, -1), ids)
            return
        self.put("output_norm", in_place(norm(outputs), order).view(ids.shape))
        self.put("output_absmax", in_place(absmax(outputs), order).view(ids.shape))

    def _add_moments(self, outputs: torch.Tensor, experts: torch.Tensor, start: int) -> None:
        if self.moments is None:
            self.moments = Moments.zeros(self.num_experts, outputs.shape[-1], outputs.device)
        real = self.session.real
        self.moments.add(outputs, experts, None if real is None else real[start : start + len(experts)])

    def take(self) -> dict[str, list[torch.Tensor]]:
        """Everything kept since the last take."""
        kept, self.kept = self.kept, {}
        return kept


def in_place(values: torch.Tensor, order: torch.Tensor | None) -> torch.Tensor:
    """Rows of `values` where `order` says they belong."""
    if order is None:
        return values
    out = torch.empty_like(values)
    out[order] = values
    return out


def norm(values: torch.Tensor) -> torch.Tensor:
    """L2 norm over the last axis, summed and returned in float32 at least."""
    if values.dtype in (torch.bfloat16, torch.float16):
        return torch.linalg.vector_norm(values, dim=-1, dtype=torch.float32)
    return torch.linalg.vector_norm(values, dim=-1)


def absmax(values: torch.Tensor) -> torch.Tensor:
    """Largest absolute component over the last axis; NaN where there is one.

    Which way is fastest differs (1 thread, [4096, 256]): float32 0.30 ms by max and min, 0.46 by abs, 3.1 by
    vector_norm(inf); bfloat16 and float16 0.22 ms as integers (without their sign bit, floats and their bits are
    ordered alike), 0.52 by abs. A few rows cost what their calls cost, and abs has the fewest.
    """
    if values.numel() < SMALL:
        return values.abs().amax(-1)
    if values.dtype == torch.float32:
        return torch.maximum(values.amax(-1), values.amin(-1).neg_())
    if values.dtype in (torch.bfloat16, torch.float16):
        return (values.view(torch.int16) & 0x7FFF).amax(-1).view(values.dtype)
    return values.abs().amax(-1)
