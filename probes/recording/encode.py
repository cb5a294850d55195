"""Prompts to token ids: the exact ids that the model will be fed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from probes.chat import render
from probes.errors import ProbeError
from probes.prompts import BadPrompt, Prompt

CHUNK = 512  # prompts handed to the tokenizer at once: fast tokenizers work in parallel, but memory stays bounded


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """One sequence as the model gets it. `sequence_id` counts the prompts of the whole file, shards included."""

    sequence_id: int
    prompt: Prompt
    ids: np.ndarray
    text: str


def encode_prompts(
    prompts: list[Prompt],
    tokenizer: Any,
    *,
    max_length: int | None,
    context: int | None,
    new_tokens: int = 0,
    reply: bool | None = None,
) -> tuple[list[EncodedPrompt], list[BadPrompt]]:
    """Token ids of every prompt, and the prompts that cannot be fed (no template, longer than the context).

    `max_length` cuts prompts; `context` is the model's limit, within which a prompt and `new_tokens` must fit. `reply`:
    something is to follow a conversation; None where new tokens are.
    """
    reply = new_tokens > 0 if reply is None else reply
    encoded: list[EncodedPrompt] = []
    bad: list[BadPrompt] = []
    for start in range(0, len(prompts), CHUNK):
        chunk = prompts[start : start + CHUNK]
        for offset, (prompt, ids, text) in enumerate(_ids(chunk, tokenizer, reply, bad)):
            if ids is None:
                continue
            ids = ids[:max_length] if max_length else ids
            fault = _length_fault(len(ids), context, new_tokens)
            if fault:
                bad.append(BadPrompt(prompt.source, fault))
            else:
                encoded.append(EncodedPrompt(start + offset, prompt, np.asarray(ids, dtype=np.int32), text))
    if not encoded:
        raise ProbeError(f"no prompt can be fed to the model ({bad[0]})" if bad else "no prompt to record")
    return encoded, bad


def _length_fault(length: int, context: int | None, new_tokens: int) -> str | None:
    if length == 0:
        return "no token at all after tokenization"
    if context is not None and length + new_tokens > context:
        asked = f"{length} tokens" + (f" and {new_tokens} new ones" if new_tokens else "")
        return (
            f"{asked} do not fit the model's context of {context}; cut prompts with --max-length {context - new_tokens}"
        )
    return None


def _ids(chunk: list[Prompt], tokenizer: Any, reply: bool, bad: list[BadPrompt]) -> list[tuple]:
    texts = [prompt.text for prompt in chunk if prompt.text is not None]
    plain = iter(tokenizer(texts, verbose=False)["input_ids"] if texts else [])
    return [
        (prompt, next(plain), prompt.text)
        if prompt.text is not None
        else (prompt, *_chat_ids(prompt, tokenizer, reply, bad))
        for prompt in chunk
    ]


def _chat_ids(prompt: Prompt, tokenizer: Any, reply: bool, bad: list[BadPrompt]) -> tuple[list[int] | None, str | None]:
    """Ids and text of a conversation through the model's own template; the reply is opened if one is to come."""
    if not getattr(tokenizer, "chat_template", None):
        bad.append(BadPrompt(prompt.source, "has messages, but the model's tokenizer has no chat template; give text"))
        return None, None
    try:
        text = render(tokenizer, prompt.messages or [], prompt.chat, reply=reply)
    except Exception as error:  # noqa: BLE001 - templates are strangers' code and raise whatever they like
        bad.append(
            BadPrompt(
                prompt.source,
                f"the chat template refuses it ({(str(error).splitlines() or [type(error).__name__])[0]})",
            )
        )
        return None, None
    # The template writes the special tokens itself; adding them again would feed a second beginning-of-sequence.
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], text


def context_length(model: Any) -> int | None:
    """The longest sequence that a model, or one of this configuration, has positions for; None without a limit."""
    from probes.capture.within import text_config

    config = model.get_text_config() if hasattr(model, "get_text_config") else text_config(model)
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length"):
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None
