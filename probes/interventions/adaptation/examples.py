"""Labelled examples: prompts with the right continuation, as ids, in padded batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from probes.errors import UsageError


@dataclass(frozen=True)
class Example:
    """A prompt and its right continuation, as token ids."""

    prompt: tuple[int, ...]
    target: tuple[int, ...]


@dataclass(frozen=True)
class Batch:
    """Prompts with their targets, padded on the left: ids, mask [B, S], and which tokens are targets (bool [B, S]).

    last   int [B]: where the last token of each prompt is
    """

    ids: torch.Tensor
    mask: torch.Tensor
    target: torch.Tensor
    last: torch.Tensor


# After these a target follows at once ("12+70=82"), after all else with a space ("Answer: Mirn").
CLOSE = tuple("=([{<>/\\\"'`-_#@$~^|&+*")


def read_examples(given: Iterable[Any], tokenizer: Any = None, end: str = "\n") -> tuple[Example, ...]:
    """Examples from `Example`s, prompts as `probes.prompts` reads them, or objects with "text" and "target".

    A space stands between the two where a writer would put one; `end` closes each target. UsageError where there is
    no example, one has no target, or texts come without a tokenizer.
    """
    found = tuple(one if isinstance(one, Example) else _encoded(one, tokenizer, end) for one in given)
    if not found:
        raise UsageError("there are no examples to learn from")
    if any(not one.prompt or not one.target for one in found):
        raise UsageError("every example needs a prompt and a target of at least one token")
    return found


def _encoded(one: Any, tokenizer: Any, end: str) -> Example:
    text, target = ((one.get(n) if isinstance(one, Mapping) else getattr(one, n, None)) for n in ("text", "target"))
    if not text or not target:
        raise UsageError(f"an example needs a text and a target: {str(one)[:60]}")
    if tokenizer is None:
        raise UsageError("examples given as text need the tokenizer")
    joint = "" if text[-1:].isspace() or target[:1].isspace() or text.endswith(CLOSE) else " "
    ids = tokenizer.encode(joint + target + end, add_special_tokens=False)
    return Example(tuple(tokenizer(text).input_ids), tuple(ids))


def batches(examples: Sequence[Example], size: int, padding: int, device: Any) -> Iterator[Batch]:
    """The examples in order, `size` at a time."""
    for start in range(0, len(examples), size):
        yield batch_of(examples[start : start + size], padding, device)


def batch_of(examples: Sequence[Example], padding: int, device: Any) -> Batch:
    """These examples as one batch."""
    longest = max(len(one.prompt) + len(one.target) for one in examples)
    ids = torch.full((len(examples), longest), padding, dtype=torch.long)
    mask, target = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
    for row, one in enumerate(examples):
        whole = (*one.prompt, *one.target)
        ids[row, longest - len(whole) :] = torch.tensor(whole)
        mask[row, longest - len(whole) :] = 1
        target[row, longest - len(one.target) :] = True
    last = longest - 1 - target.sum(1)
    return Batch(*(tensor.to(device) for tensor in (ids, mask, target, last)))
