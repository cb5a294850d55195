"""Text from a model, and the model's opinion of given text: in batches, the same with and without interventions.

    written = generate(model, tokenizer, [tokenizer("47+35=").input_ids])[0].text
    log_p = distributions(model, prompts, continuations)      # [n, V] per sequence

A continuation can be read in two ways: in one pass together with its prompt, or token by token, as it would have been
written. Only the second lets an intervention act that is limited to decoding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from probes.capture.head import LARGE, headless, takes_logits_to_keep
from probes.capture.within import config_of, device_of, dtype_of, reader, text_config
from probes.errors import ProbeError
from probes.generation_config import end_token_ids, generation_config, parse_options, require_decoder, write
from probes.parsing import number, whole
from probes.recording.session import pad

if TYPE_CHECKING:
    import torch

Ids = Sequence[int] | np.ndarray
Step = Callable[[list[str]], None]


@dataclass(frozen=True)
class Decoding:
    """How text is written.

    stop     texts that end it (the model's end token always does); the first is cut off
    options  "repetition_penalty=1.2" and the like (see `probes.generation_config`); what the checkpoint's own
             generation_config asks for is not used
    """

    max_new_tokens: int = 64
    stop: tuple[str, ...] = ()
    sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    options: tuple[str, ...] = ()

    def checked(self) -> Decoding:
        """Itself, or a UsageError for numbers out of range."""
        whole(self.max_new_tokens, "--max-new-tokens", 1)
        number(self.temperature, "--temperature", above=0)
        number(self.top_p, "--top-p", above=0, high=1)
        whole(self.seed, "--seed")
        parse_options(self.options, sampled=self.sample)
        return self

    def config(self, model: Any, tokenizer: Any) -> Any:
        """The same as transformers takes it, for this model."""
        return generation_config(
            model,
            max_new_tokens=self.max_new_tokens,
            eos_token_id=sorted(end_ids(model, tokenizer)),
            pad_token_id=pad_id(tokenizer),
            sample={"temperature": float(self.temperature), "top_p": float(self.top_p)} if self.sample else None,
            options=self.options,
        )


@dataclass(frozen=True)
class Generated:
    """What was written after one prompt.

    ids       all new tokens, the one that ended it included
    text      up to the first stop, end tokens left out
    length    tokens up to there
    finished  it ended by itself, and not because max_new_tokens were used up
    """

    ids: np.ndarray
    text: str
    length: int
    finished: bool


def generate(
    model: Any, tokenizer: Any, prompts: Sequence[Ids], decoding: Decoding | None = None, on_step: Step | None = None
) -> list[Generated]:
    """Continuations of `prompts` (token ids), written together as one left-padded batch.

    on_step is called after each token with the texts so far.
    """
    decoding = decoding or Decoding()
    require_decoder(model)
    ids, mask = padded(model, tokenizer, prompts)
    watch = Watch(tokenizer, ids.shape[1], decoding.stop, end_ids(model, tokenizer), on_step)
    config = decoding.config(model, tokenizer)
    with _seeded(decoding), _no_memory_error():
        output = write(model, ids, mask, config, stopping_criteria=watch.criteria())
    rows = output[:, ids.shape[1] :].cpu().numpy().astype(np.int32)
    return [generated(row, model, tokenizer, decoding.stop) for row in rows]


def distributions(
    model: Any, tokenizer: Any, prompts: Sequence[Ids], continuations: Sequence[Ids], *, stepwise: bool = False
) -> list[torch.Tensor]:
    """ln p [n, V], float32, of the model before each of the n tokens of a continuation, given all that stands before.

    stepwise: the continuation is fed token by token after its prompt (decoding), not in one pass with it (prefill).
    """
    if getattr(config_of(model), "is_encoder_decoder", False):
        require_decoder(model)
    if why := headless(model):
        raise ProbeError(f"{why}: it gives no token a probability")
    if any(len(prompt) == 0 for prompt in prompts):
        raise ProbeError("a text to be scored needs at least one token before it")
    with _no_memory_error():
        return (_forced if stepwise else _read)(model, tokenizer, prompts, continuations)


def _read(model: Any, tokenizer: Any, prompts: Sequence[Ids], continuations: Sequence[Ids]) -> list[torch.Tensor]:
    import torch

    whole = [np.concatenate([p, c]) for p, c in zip(prompts, continuations, strict=True)]
    # Padding on the right: positions need no shift, and recurrent layers see it last.
    ids, mask = pad(whole, pad_id(tokenizer), left=False, device=device_of(model))
    first = min(map(len, prompts)) - 1  # before it, no position's logits are needed
    keep = {"logits_to_keep": ids.shape[1] - first} if first and _large(model, ids) else {}
    masked = {} if mask is None else {"attention_mask": mask}
    with torch.no_grad():
        output = reader(model)(input_ids=ids, use_cache=False, **masked, **keep)
    logits = _word_logits(model, output, ids.shape[1])
    left = ids.shape[1] - logits.shape[1]
    spans = [slice(len(p) - 1 - left, len(p) - 1 - left + len(c)) for p, c in zip(prompts, continuations, strict=True)]
    return [logits[row, span].float().log_softmax(-1) for row, span in enumerate(spans)]


def _large(model: Any, ids: Any) -> bool:
    """Would all logits of ids [B, S] take so much memory that only those needed are worth another rounding?"""
    size = ids.numel() * text_config(model).vocab_size * dtype_of(model).itemsize
    return size >= LARGE and takes_logits_to_keep(model)


def _word_logits(model: Any, output: Any, length: int) -> Any:
    """Logits [B, S, V] of the tokens of the text: some wrappers return tuples, some put tokens of theirs before it."""
    logits = getattr(output, "logits", None)
    if logits is None:
        found = output if isinstance(output, tuple) else ()
        logits = next((one for one in found if getattr(one, "ndim", 0) == 3), None)
    if logits is None:
        raise ProbeError(f"{type(model).__name__} returns no logits of words, so no text can be scored with it")
    return logits[:, max(0, logits.shape[1] - length) :]


def _forced(model: Any, tokenizer: Any, prompts: Sequence[Ids], continuations: Sequence[Ids]) -> list[torch.Tensor]:
    """Decoding as it is, except that every token is the given one."""
    import torch

    longest = max(len(c) for c in continuations)
    if longest == 0:
        return [torch.zeros(0, text_config(model).vocab_size, device=device_of(model)) for _ in prompts]
    ids, mask = padded(model, tokenizer, prompts)
    force = _Force(continuations, pad_id(tokenizer))
    # No token ends the reading, also not an end token inside the text: this id does not exist.
    nothing = text_config(model).vocab_size
    config = generation_config(model, max_new_tokens=longest, pad_token_id=pad_id(tokenizer), eos_token_id=[nothing])
    write(model, ids, mask, config, logits_processor=force.processors())
    return [torch.stack(rows) if rows else force.empty() for rows in force.rows]


def kl(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """KL(p ‖ q) = Σ p (ln p − ln q) in nats over the last axis, never below 0 by rounding."""
    import torch

    difference = torch.where(log_p.isneginf(), 0.0, log_p - log_q)
    return (log_p.exp() * difference).sum(-1).clamp(min=0)


def pad_id(tokenizer: Any) -> int:
    """The id that fills a batch; which one it is makes no difference."""
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id)
    return int(next((one for one in known if one is not None), 0))


def end_ids(model: Any, tokenizer: Any) -> set[int]:
    """Tokens that end a text, by the model's own account and the tokenizer's."""
    return {*end_token_ids(model), tokenizer.eos_token_id} - {None}


def padded(model: Any, tokenizer: Any, prompts: Sequence[Ids]) -> tuple[Any, Any]:
    """Ids and mask [B, S] of a batch, padded on the left, on the model's device."""
    given = [np.asarray(prompt) for prompt in prompts]
    ids, mask = pad(given, pad_id(tokenizer), left=True, device=device_of(model))
    return ids, ids.new_ones(ids.shape) if mask is None else mask


@contextmanager
def _seeded(decoding: Decoding) -> Iterator[None]:
    """The global random numbers as they were afterwards; seeded meanwhile, because `generate` draws from them."""
    import torch

    if not decoding.sample:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(decoding.seed)
        yield


@contextmanager
def _no_memory_error() -> Iterator[None]:
    import torch

    try:
        with torch.no_grad():
            yield
    except torch.OutOfMemoryError as error:
        raise ProbeError("the device is out of memory; use a smaller --batch-size") from error


class Watch:
    """Ends rows at a stop text, and tells how far the texts are."""

    def __init__(
        self, tokenizer: Any, start: int, stop: Sequence[str], ends: set[int], on_step: Step | None = None
    ) -> None:
        self._tokenizer, self._start, self._stop, self._on_step = tokenizer, start, tuple(stop), on_step
        self._ends = ends
        # A token may stand for a part of a character, so the last few are read together.
        self._tail = max((len(text) for text in stop), default=0) + 8

    def criteria(self) -> Any:
        """For `generate`; None where nothing is to be watched."""
        from transformers import StoppingCriteriaList

        return StoppingCriteriaList([self]) if self._stop or self._on_step else None

    def __call__(self, input_ids: Any, scores: Any = None, **kwargs: Any) -> Any:
        """bool [B]: rows of input_ids [B, S] that have ended; their first `start` ids are the prompt."""
        import torch

        new = input_ids[:, self._start :].tolist()
        if self._on_step:
            self._on_step([self._text(row) for row in new])
        done = [any(s in self._tokenizer.decode(row[-self._tail :]) for s in self._stop) for row in new]
        return torch.tensor(done, device=input_ids.device)

    def _text(self, row: list[int]) -> str:
        end = next((i for i, token in enumerate(row) if token in self._ends), len(row))
        return cut(_decode(self._tokenizer, row[:end]), self._stop)


class _Force:
    """Keeps each step's distribution and lets only the given token be chosen."""

    def __init__(self, continuations: Sequence[Ids], filler: int) -> None:
        self._wanted = [list(map(int, c)) for c in continuations]
        self._filler = filler
        self._vocabulary = 0
        self._step = 0
        self.rows: list[list[Any]] = [[] for _ in self._wanted]

    def processors(self) -> Any:
        from transformers import LogitsProcessorList

        return LogitsProcessorList([self])

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        import torch

        self._vocabulary = scores.shape[-1]
        log_p = scores.float().log_softmax(-1)
        chosen = torch.full_like(scores, float("-inf"))
        for row, wanted in enumerate(self._wanted):
            inside = self._step < len(wanted)
            chosen[row, wanted[self._step] if inside else self._filler] = 0.0
            if inside:
                self.rows[row].append(log_p[row])
        self._step += 1
        return chosen

    def empty(self) -> Any:
        import torch

        return torch.zeros(0, self._vocabulary)


def generated(row: np.ndarray, model: Any, tokenizer: Any, stop: Sequence[str] = ()) -> Generated:
    """What new token ids [n] say, up to an end token or a stop text."""
    new, ends = row.tolist(), end_ids(model, tokenizer)
    end = next((i for i, token in enumerate(new) if token in ends), len(new))
    whole = _decode(tokenizer, new[:end])
    text = cut(whole, stop)
    if len(text) == len(whole):
        return Generated(row[: end + 1], whole, end, end < len(new))
    length = _covering(tokenizer, new, len(text))
    return Generated(row[: _covering(tokenizer, new, len(text) + 1)], text, length, True)


def cut(text: str, stop: Sequence[str]) -> str:
    """The text up to the first of the stops.

    >>> cut("8\\n12+1=", ("\\n",))
    '8'
    """
    return text[: min((text.find(s) for s in stop if s in text), default=len(text))]


def _covering(tokenizer: Any, ids: list[int], characters: int) -> int:
    """How many tokens it takes to write so many characters."""
    return next((n for n in range(len(ids)) if len(_decode(tokenizer, ids[:n])) >= characters), len(ids))


def _decode(tokenizer: Any, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
