"""What a pass was given: how many sequences and positions, which of them are padding, how much the cache held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from probes.capture.masks import padding_mask
from probes.capture.within import TOKENS, named
from probes.errors import ProbeError

PREFILL, DECODE, MIXED = "prefill", "decode", "mixed"


@dataclass(frozen=True)
class Inputs:
    """B, S, and the tensors that say where the rows are.

    mask     bool or 0/1 [B, K] with K >= S: which positions up to the end of this pass are tokens; None: all
    past     number of positions before this pass, padding included, as far as the cache tells
    ids      int [B, S] token ids, -1 at virtual tokens; None where the model was given embeddings
    device   where the pass's tokens are
    virtual  how many positions at the beginning are no tokens of the text: prompts that an adapter has learned
    prompt   how many positions, padding and virtual ones included, the text had before anything was written;
             None: nobody says
    """

    batch: int
    length: int
    mask: Any = None
    position_ids: Any = None
    past: int = 0
    ids: Any = None
    device: Any = None
    virtual: int = 0
    prompt: int | None = None

    def tensors(self) -> list[Any]:
        """What has to go to the host with the pass."""
        return [t for t in (self.mask, self.position_ids) if t is not None]

    @property
    def count(self) -> int:
        return len(self.tensors())

    def arrays(self, host: list[Any]) -> tuple[Any, Any]:
        """(mask, position_ids) as NumPy arrays or None, from `tensors()` on the host."""
        values = [t.numpy() for t in host]
        mask = values.pop(0) if self.mask is not None else None
        return mask, values.pop(0) if self.position_ids is not None else None

    @cached_property
    def start(self) -> int:
        """Positions before this pass, padding included."""
        longer = 0 if self.mask is None else self.mask.shape[1] - self.length
        return max(self.past, longer)

    @property
    def written_from(self) -> int:
        """The first column of this pass whose token the model wrote itself; S where it wrote none of them.

        A token is decoded if generation has produced it, whatever the length of the pass it is fed in: candidates of
        assisted decoding come several at once, and the last piece of a prompt may be a single token. Where nobody
        says how long the prompt was, one new position after cached ones counts as decoding.
        """
        if self.prompt is None:
            return 0 if self.start > self.virtual and self.length == 1 else self.length
        return min(max(self.prompt - self.start, 0), self.length)

    @property
    def phase(self) -> str:
        """ "prefill" where all tokens of the pass were read, "decode" where all were written, else "mixed"."""
        return {0: DECODE, self.length: PREFILL}.get(self.written_from, MIXED)

    def real(self) -> Any:
        """bool [B*S] on the device: rows that are tokens; None when there is no padding mask."""
        return None if self.mask is None else self.mask[:, -self.length :].expand(self.batch, -1).reshape(-1).bool()

    def recorded(self) -> Any:
        """`real`, without the rows of virtual tokens."""
        real, hidden = self.real(), min(max(self.virtual - self.start, 0), self.length)
        if not hidden:
            return real
        import torch

        device = self.device if real is None else real.device
        text = (torch.arange(self.length, device=device) >= hidden).expand(self.batch, -1).reshape(-1)
        return text if real is None else real & text


@dataclass(frozen=True)
class Level:
    """One of the calls around a pass, from the model's own `generate` to the text model inside: module, arguments."""

    module: Any
    given: dict[str, Any]
    generating: bool = False


def read_inputs(args: tuple[Any, ...], kwargs: dict[str, Any], module: Any = None) -> Inputs:
    """Read the arguments of a model's forward; those given by position are named by the forward of `module`."""
    given = named(module, args, kwargs) if module is not None else kwargs
    if args and not any(given.get(name) is not None for name in TOKENS):
        given = {**given, "inputs_embeds" if args[0].is_floating_point() else "input_ids": args[0]}
    return read_levels([Level(module, given)])


def read_levels(levels: Sequence[Level], prompt: int | None = None, virtual: int = 0) -> Inputs:
    """Inputs of the pass whose own call is the last of `levels`; what it was not told, a call around it may know."""
    own = levels[-1].given
    tokens = _tokens(own)
    if tokens is None:
        raise ProbeError("the model was called without input_ids or inputs_embeds; there is nothing to record")
    batch, length = (int(n) for n in tokens.shape[:2])
    past = max((_cached(level.given.get("past_key_values")) for level in levels), default=0)
    calls = [level for level in reversed(levels) if not level.generating]
    near = [level for level in calls if _same_text(level.given, tokens)]
    positions = [level.given.get("position_ids") for level in near]
    return Inputs(
        batch,
        length,
        padding_mask(near, [la for la in levels if la.generating], batch, length, past, virtual),
        next((p for p in positions if _fits(p, batch, length)), None),
        past,
        _ids(near, [la for la in levels if la.generating], batch, length, virtual, past),
        tokens.device,
        virtual,
        prompt,
    )


def _tokens(given: dict[str, Any]) -> Any:
    return next((given[n] for n in TOKENS if given.get(n) is not None), None)


def _same_text(given: dict[str, Any], tokens: Any) -> bool:
    """Is this call about the same sequences? Virtual tokens make them longer on the way inside."""
    mine = _tokens(given)
    return mine is None or (mine.shape[0] == tokens.shape[0] and mine.shape[1] <= tokens.shape[1])


def _ids(near: Sequence[Level], generating: Sequence[Level], batch: int, length: int, virtual: int, past: int) -> Any:
    """[B, S] as the nearest call was given them, or else `generate`; -1 at virtual tokens."""
    hidden = min(max(virtual - past, 0), length)
    for level in near:
        for name in ("input_ids", "decoder_input_ids"):
            ids: Any = level.given.get(name)
            if getattr(ids, "ndim", 0) == 2 and tuple(ids.shape) == (batch, length):
                return ids
            if hidden and getattr(ids, "ndim", 0) == 2 and tuple(ids.shape) == (batch, length - hidden):
                return _after_virtual(ids, hidden)
    start, stop = max(past - virtual, 0), past - virtual + length
    for level in generating if hidden else ():
        ids = level.given.get("input_ids", level.given.get("inputs"))
        if getattr(ids, "ndim", 0) == 2 and ids.shape[1] >= stop and batch % ids.shape[0] == 0:
            return _after_virtual(ids.repeat_interleave(batch // ids.shape[0], 0)[:, start:stop], hidden)
    return None


def _after_virtual(ids: Any, count: int) -> Any:
    import torch

    return torch.cat([ids.new_full((len(ids), count), -1), ids], 1)


def _fits(value: Any, batch: int, length: int) -> bool:
    # [3, B, S] position ids are image coordinates: they do not say which token it is.
    return getattr(value, "ndim", 0) == 2 and value.shape[0] in (1, batch) and value.shape[1] == length


def _cached(cache: Any) -> int:
    try:
        return int(cache.get_seq_length())
    except (AttributeError, TypeError, ValueError, NotImplementedError, IndexError):
        return 0  # no cache, or one of a recurrent model that counts no positions


__all__ = ["DECODE", "MIXED", "PREFILL", "TOKENS", "Inputs", "Level", "read_inputs", "read_levels"]
