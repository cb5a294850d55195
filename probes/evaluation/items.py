"""What a model is asked, and when its answer is right.

A line of a tasks file is one item (see `probes.prompts`): with `choices` it is multiple choice, with a `target` it is
answered in the model's own words, with neither its text is read. Line up with the published tasks of the sample model:

    expected answer   metadata.answer if there is one, else what follows the last </think> of the target
    given answer      the generated text up to the first stop, of which what follows the last </think>
    right             both are equal, white space at the ends aside; capitals count
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from probes.errors import ProbeError, UsageError, unknown
from probes.prompts import BadPrompt, Prompt, read_prompts
from probes.recording.encode import EncodedPrompt, context_length, encode_prompts

THINKING_ENDS = "</think>"
JOINS = ("auto", "space", "none")
# After these a continuation follows at once: "12+70=82", but "Answer: Mirn".
CLOSE = tuple("=([{<>/\\\"'`-_#@$~^|&+*")


@dataclass(frozen=True)
class Item:
    """One question with its ids. `continuations`: the target, or all choices, as ids; empty where text is read."""

    task: str
    number: int
    prompt: Prompt
    ids: np.ndarray
    continuations: tuple[np.ndarray, ...] = ()

    @property
    def kind(self) -> str:
        """ "choice", "answer" or "text"."""
        return kind_of(self.prompt)

    @property
    def target(self) -> np.ndarray:
        """The ids whose probability is measured: the target's, or those of the text after its first token."""
        if self.kind == "text":
            return self.ids[1:]
        return self.continuations[self.right_choice if self.kind == "choice" else 0]

    @property
    def before_target(self) -> np.ndarray:
        """The ids that stand before `target`."""
        return self.ids[:1] if self.kind == "text" else self.ids

    @property
    def right_choice(self) -> int:
        assert self.prompt.choices is not None
        assert self.prompt.target is not None
        return self.prompt.choices.index(self.prompt.target)

    @property
    def answer(self) -> str:
        """What is expected."""
        given = self.prompt.metadata.get("answer")
        return str(given).strip() if given is not None else answer_of(self.prompt.target or "")


def kind_of(prompt: Prompt) -> str:
    """ "choice", "answer" or "text"."""
    return "choice" if prompt.choices else "answer" if prompt.target else "text"


def answer_of(text: str) -> str:
    """What a text finally says: all after the last </think>, without white space at the ends.

    >>> answer_of("<think>2+0=2 carry 0; 1+7+0=8</think>82")
    '82'
    """
    return text.rpartition(THINKING_ENDS)[2].strip()


def joint(text: str, continuation: str, join: str) -> str:
    """What stands between a text and its continuation: a space or nothing.

    >>> joint("Answer:", "Mirn", "auto"), joint("12+70=", "82", "auto")
    (' ', '')
    """
    if join != "auto":
        return " " if join == "space" else ""
    return "" if text[-1:].isspace() or continuation[:1].isspace() or text.endswith(CLOSE) else " "


def read_items(tasks: Sequence[str | Path], limit: int | None = None) -> dict[str, list[Prompt]]:
    """task name (the file's) -> its prompts; ProbeError naming the first line that is no item."""
    found: dict[str, list[Prompt]] = {}
    for path in map(Path, tasks):
        prompts = read_prompts(path, limit)
        faults = [*prompts.bad, *(BadPrompt(p.source, reason) for p in prompts.good if (reason := _fault(p)))]
        if faults:
            more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
            raise ProbeError(f"{faults[0]}{more}")
        name = path.stem if path.stem not in found else str(path)
        if name in found:
            raise UsageError(f"--tasks {path} is given twice")
        found[name] = prompts.good
    return found


def _fault(prompt: Prompt) -> str:
    if prompt.choices is not None:
        if len(prompt.choices) < 2 or not all(isinstance(choice, str) and choice for choice in prompt.choices):
            return '"choices" must be at least two texts'
        if len(set(prompt.choices)) < len(prompt.choices):
            return '"choices" holds a text twice'
        if prompt.target not in prompt.choices:
            return f'"target" {prompt.target!r} is not among the "choices"'
    if prompt.target == "":
        return '"target" is empty'
    return ""


def encode_items(
    tasks: dict[str, list[Prompt]], model: Any, tokenizer: Any, *, max_new_tokens: int, join: str = "auto"
) -> list[Item]:
    """The items as the model is given them; ProbeError for the first that does not fit its context."""
    if join not in JOINS:
        raise unknown("join", join, JOINS)
    items: list[Item] = []
    for task, prompts in tasks.items():
        answered = any(kind_of(p) == "answer" for p in prompts)
        encoded, bad = encode_prompts(
            prompts,
            tokenizer,
            max_length=None,
            context=context_length(model),
            new_tokens=max_new_tokens if answered else 0,
            reply=any(kind_of(p) != "text" for p in prompts),  # a choice is a reply as well
        )
        if bad:
            raise ProbeError(f"{bad[0]}{f' (and {len(bad) - 1} more)' if len(bad) > 1 else ''}")
        items += [_item(task, number, one, model, tokenizer, join) for number, one in enumerate(encoded)]
    return items


def _item(task: str, number: int, encoded: EncodedPrompt, model: Any, tokenizer: Any, join: str) -> Item:
    prompt = encoded.prompt
    texts = prompt.choices or ([prompt.target] if prompt.target else [])
    ids = encoded.ids
    if not texts and len(ids) < 2:
        raise ProbeError(f"{prompt.source}: a text of one token has nothing to predict")
    continuations = tuple(_continued(encoded, text, tokenizer, join) for text in texts)
    context, longest = context_length(model), max((len(c) for c in continuations), default=0)
    if context is not None and len(ids) + longest > context:
        raise ProbeError(f"{prompt.source}: {len(ids)} + {longest} tokens do not fit the model's context of {context}")
    return Item(task, number, prompt, np.asarray(ids, np.int64), continuations)


def _continued(encoded: EncodedPrompt, text: str, tokenizer: Any, join: str) -> np.ndarray:
    """Ids of a continuation: those that the whole text has beyond its beginning, where the cut falls between tokens."""
    before = encoded.text
    added = joint(before, text, join) + text if encoded.prompt.text is not None else text
    special = encoded.prompt.text is not None
    whole = tokenizer(before + added, verbose=False, add_special_tokens=special)["input_ids"]
    start = encoded.ids.tolist()
    end = [] if not special else _closing(tokenizer)
    whole = whole[: len(whole) - len(end)] if end and whole[-len(end) :] == end else whole
    same = whole[: len(start)] == start and len(whole) > len(start)
    ids = whole[len(start) :] if same else tokenizer(added, verbose=False, add_special_tokens=False)["input_ids"]
    if not ids:
        raise ProbeError(f"{encoded.prompt.source}: {text!r} has no tokens")
    return np.asarray(ids, np.int64)


def _closing(tokenizer: Any) -> list[int]:
    """Special tokens that the tokenizer puts at the end of every text (few do)."""
    plain = tokenizer("a", verbose=False, add_special_tokens=False)["input_ids"]
    framed = tokenizer("a", verbose=False)["input_ids"]
    end = framed.index(plain[-1]) + 1 if plain and plain[-1] in framed else len(framed)
    return framed[end:]


def items_hash(items: Sequence[Item]) -> str:
    """A hash of everything that is asked and expected."""
    digest = hashlib.sha256()
    for item in items:
        ids = [item.ids.tolist(), *(c.tolist() for c in item.continuations)]
        expected = item.prompt.choices or (item.answer if item.kind == "answer" else "")
        digest.update(json.dumps([item.task, item.number, ids, expected], ensure_ascii=False).encode())
    return digest.hexdigest()[:32]
