"""Where an intervention acts: one layer of a model, and the forward pass that is going through it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from probes.capture.inputs import Inputs
from probes.errors import ProbeError
from probes.interventions.spec import Scope, Spec
from probes.lazy import torch
from probes.scores import UNKNOWN


class Pass:
    """One forward pass of B sequences and S positions: which rows [B*S] are which tokens. Computed when asked for."""

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs
        self._rows: dict[int, Any] = {}  # by the identity of the spec

    @property
    def phase(self) -> str:
        """ "prefill", "decode" or "mixed", as the recording says (`Inputs.phase`)."""
        return self.inputs.phase

    @cached_property
    def decoded(self) -> Any:
        """bool [B*S]: tokens that the model wrote itself."""
        columns = torch.arange(self.inputs.length, device=self.inputs.device)
        return (columns >= self.inputs.written_from).expand(self.inputs.batch, -1).reshape(-1)

    @property
    def past(self) -> int:
        """Positions before this pass, padding included."""
        return self.inputs.start

    @property
    def count(self) -> int:
        """B*S."""
        return self.inputs.batch * self.inputs.length

    @cached_property
    def real(self) -> Any:
        """bool [B*S]: rows that are tokens, None where all are."""
        return self.inputs.real()

    @cached_property
    def sequence(self) -> Any:
        """int [B*S]: which sequence of the batch a row belongs to."""
        return torch.arange(self.inputs.batch, device=self.inputs.device).repeat_interleave(self.inputs.length)

    @cached_property
    def position(self) -> Any:
        """int [B*S]: position within the sequence, padding and virtual tokens not counted; -1 at these."""
        known = self._counted - self.inputs.virtual
        return torch.where(known >= 0, known, -1) if self.inputs.virtual else known

    @cached_property
    def _counted(self) -> Any:
        """`position`, virtual tokens counted."""
        inputs, device = self.inputs, self.inputs.device
        if inputs.mask is None or bool(inputs.mask.all()):
            if inputs.position_ids is not None:
                return inputs.position_ids.expand(inputs.batch, -1).reshape(-1).long()
            new = torch.arange(self.past, self.past + inputs.length, device=device)
            return new.expand(inputs.batch, -1).reshape(-1)
        mask = inputs.mask.long().expand(inputs.batch, -1)
        known = mask.cumsum(1)[:, mask.shape[1] - inputs.length :] - 1
        known = known + (self.past if mask.shape[1] == inputs.length else 0)
        return torch.where(mask[:, -inputs.length :].bool(), known, -1).reshape(-1)

    @cached_property
    def token_ids(self) -> Any:
        """int [B*S]: the input tokens. ProbeError where the model was given embeddings."""
        if self.inputs.ids is None:
            raise ProbeError("the model was given embeddings, so no intervention can be limited to certain tokens")
        return self.inputs.ids.reshape(-1)

    def rows(self, spec: Spec, generator: Any) -> Any:
        """bool [B*S]: the tokens in the scope of `spec`, None where all are; the same ones in every layer."""
        mixed = spec.scope.phase != "all" and self.phase == "mixed"
        if not (spec.scope.by_token or mixed):
            return None
        if id(spec) not in self._rows:
            chosen = self._chosen(spec.scope, generator) if spec.scope.by_token else None
            phase = (self.decoded if spec.scope.phase == "decode" else ~self.decoded) if mixed else None
            self._rows[id(spec)] = chosen if phase is None else phase if chosen is None else chosen & phase
        return self._rows[id(spec)]

    def _chosen(self, scope: Scope, generator: Any) -> Any:
        device = self.inputs.device
        chosen = torch.ones(self.count, dtype=torch.bool, device=device)
        if scope.positions is not None:
            first, last = scope.positions
            chosen &= (self.position >= first) & (self.position <= last)
        if scope.last is not None:
            position = self.position.view(self.inputs.batch, -1)
            chosen &= (position > position.amax(1, keepdim=True) - scope.last).reshape(-1) & (self.position >= 0)
        if scope.sequences:
            chosen &= torch.isin(self.sequence, torch.tensor(scope.sequences, device=device))
        if scope.tokens:
            chosen &= torch.isin(self.token_ids, torch.tensor(scope.tokens, device=device))
        if scope.probability < 1:
            chosen &= (torch.rand(self.count, generator=generator) < scope.probability).to(device)
        return chosen


@dataclass(eq=False)
class Site:
    """One intervention at one layer: what does not change between passes, and what the pass at hand has brought.

    named      ids of the experts the spec names for this layer
    scoring    "softmax", "sigmoid" or "sqrtsoftplus": how the family turns logits into scores; "unknown": nobody knows
    generator  random numbers of this intervention (on the host), seeded when steering begins
    logits     [T, E] as the router has them, after the edits before; None until the router ran
    hidden     [T, H] what the experts receive;  slot_rows  [n] which of its rows each expert output is of
    run_expert hidden [T, H], ids [T, n] -> outputs [T, n, H] of these experts, before weighting
    state      what an intervention keeps from one of its stages to the next, within a pass
    weigh      ids [T, n] -> weights [T, n] that the router's own code gives these experts
    """

    spec: Spec
    layer: int
    num_experts: int
    top_k: int
    layers: tuple[int, ...]
    scoring: str
    generator: Any
    named: tuple[int, ...]
    forward: Pass | None = None
    logits: Any = None
    hidden: Any = None
    slot_rows: Any = None
    run_expert: Callable[[Any, Any], Any] | None = None
    weigh: Callable[[Any], Any] | None = None
    state: dict[str, Any] = field(default_factory=dict)
    _made: dict[Any, Any] = field(default_factory=dict)

    def kept(self, name: str, like: Any, make: Callable[[], Any]) -> Any:
        """The tensor `make()` gives, on the device and in the dtype of `like`, made once."""
        key = (name, like.device, like.dtype)
        if key not in self._made:
            self._made[key] = make().to(device=like.device, dtype=like.dtype)
        return self._made[key]

    def mask(self, like: Any) -> Any:
        """bool [E]: the named experts, on the device of `like`."""
        key = ("named", like.device)
        if key not in self._made:
            mask = torch.zeros(self.num_experts, dtype=torch.bool)
            mask[list(self.named)] = True
            self._made[key] = mask.to(like.device)
        return self._made[key]

    def random(self, *shape: int, like: Any) -> Any:
        """Uniform random numbers in [0, 1) as float32 on the device of `like`; drawn on the host, so that every
        device sees the same ones."""
        return torch.rand(shape, generator=self.generator).to(like.device)

    def real(self, like: Any) -> Any:
        """bool [T]: rows of `like` that are tokens and not padding."""
        real = self._pass(like).real
        return like.new_ones(len(like), dtype=torch.bool) if real is None else real.to(like.device)

    def sequence(self, like: Any) -> Any:
        """int [T]: which sequence of the batch each row of `like` belongs to."""
        return self._pass(like).sequence.to(like.device)

    def _pass(self, like: Any) -> Pass:
        assert self.forward is not None
        if self.forward.count != len(like):
            raise ProbeError(
                f"layer {self.layer} sees {len(like)} of {self.forward.count} tokens, and not which: "
                f"{self.spec.name} cannot be carried out there"
            )
        return self.forward

    def scores(self) -> Any:
        """p [T, E], float32, summing to 1: softmax of the logits, or the family's own scores over their sum."""
        if self.scoring == UNKNOWN:
            raise ProbeError(f"layer {self.layer}: how its router makes scores of its logits is not known")
        logits = self.logits.float()
        if self.scoring == "sigmoid":
            scores = logits.sigmoid()
        elif self.scoring == "sqrtsoftplus":
            scores = torch.nn.functional.softplus(logits).sqrt()
        else:
            return logits.softmax(-1)
        return scores / scores.sum(-1, keepdim=True)
