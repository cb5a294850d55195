"""Encoder and decoder of one model read different tokens: which of a sequence's tokens each of them saw.

A sequence of an encoder-decoder is its prompt, which the encoder reads, and after it what the decoder reads: its start
token and what it wrote. An encoder's layers have routing for the first part, a decoder's for the second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from probes.recording.layout import NEVER_FED, Layout, lay_out

ENCODER = "encoder"
BY_ENCODER = "read by the encoder only"
BY_DECODER = "read by the decoder only"


@dataclass(frozen=True)
class Stream:
    """The passes of one part of a model, and where a batch's tokens lie in them."""

    forwards: Sequence[Any]
    layout: Layout


def streams(forwards: Sequence[Any], lengths: Sequence[int], fed: Sequence[int], prompts: Sequence[int]) -> Streams:
    """The streams of a batch: sequences of `lengths`, `fed` tokens of each fed, the first `prompts` of them prompt."""
    encoder = [forward for forward in forwards if forward.stream == ENCODER]
    if not encoder:
        return Streams(Stream(forwards, lay_out(forwards, lengths, fed)), {})
    decoder = [_after(forward, prompts) for forward in forwards if forward.stream != ENCODER]
    read, written = lay_out(encoder, lengths, prompts), lay_out(decoder, lengths, fed)
    inside = read.position < np.asarray(prompts)[read.sequence]
    read = replace(read, unfed=np.full(len(inside), BY_DECODER, object))
    written = replace(
        written,
        phase=np.where(inside, read.phase, written.phase),
        unfed=np.where(inside, BY_ENCODER, NEVER_FED).astype(object),
    )
    return Streams(Stream(decoder, written), {ENCODER: Stream(encoder, read)})


@dataclass(frozen=True)
class Streams:
    """main: the model's own passes, or its decoder's; others by name."""

    main: Stream
    others: Mapping[str, Stream]

    def of(self, router: Any) -> Stream:
        """The one that a router belongs to."""
        return self.others.get(router.stream, self.main)


def _after(forward: Any, prompts: Sequence[int]) -> Any:
    """A decoder's pass, with positions that go on after each prompt."""
    position = np.where(forward.mask, forward.position + np.asarray(prompts)[:, None], -1)
    return replace(forward, position=position)
