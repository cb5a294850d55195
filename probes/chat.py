"""A conversation through the model's own chat template: what a prompt line says of it, checked and handed on.

A line with `messages` may have what transformers' `apply_chat_template` takes: `tools`, `documents`,
`chat_template_kwargs` (enable_thinking and the like, variables of the template) and `add_generation_prompt`. Recording,
evaluation and steering all read it here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

# key of a prompt line -> its type, in words. They mean something with `messages` only.
KEYS: tuple[tuple[str, type, str], ...] = (
    ("tools", list, "a list"),
    ("documents", list, "a list"),
    ("chat_template_kwargs", dict, "an object"),
    ("add_generation_prompt", bool, "true or false"),
)
# Arguments of `apply_chat_template` itself, which are not the template's variables.
RESERVED = (
    "conversation", "messages", "chat_template", "tokenize", "continue_final_message", "padding", "truncation",
    "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs",
    "tools", "documents", "add_generation_prompt",
)  # fmt: skip
# A template that goes through the parts of a message itself.
LOOPS = re.compile(r"\bfor\s+\w+(?:\s*,\s*\w+)?\s+in\s+\S*content")


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """What a template is given beside the messages. add_generation_prompt None: where a reply is to follow."""

    tools: list[Any] | None = None
    documents: list[Any] | None = None
    add_generation_prompt: bool | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)


def chat_options(record: Mapping[str, Any]) -> ChatOptions:
    """The options in a prompt line that has passed `fault`."""
    return ChatOptions(
        record.get("tools") or None,
        record.get("documents") or None,
        record.get("add_generation_prompt"),
        record.get("chat_template_kwargs") or {},
    )


def fault(record: Mapping[str, Any]) -> str | None:
    """Why the conversation of a prompt line cannot be used, or None."""
    messages = record["messages"]
    if not isinstance(messages, list) or not messages:
        return '"messages" must be a list of at least one {"role", "content"}'
    found = [*_key_faults(record), *(f for i, message in enumerate(messages) for f in _message_faults(i, message))]
    return found[0] if found else None


def render(tokenizer: Any, messages: list[dict[str, Any]], options: ChatOptions, *, reply: bool) -> str:
    """The text of a conversation. `reply`: a reply is to follow, so it is opened unless the line says otherwise."""
    opened = reply if options.add_generation_prompt is None else options.add_generation_prompt
    return str(
        tokenizer.apply_chat_template(
            _suited(messages, tokenizer),
            tools=options.tools,
            documents=options.documents,
            add_generation_prompt=opened,
            tokenize=False,
            **options.variables,
        )
    )


def _key_faults(record: Mapping[str, Any]) -> Iterator[str]:
    for key, type_, name in KEYS:
        value = record.get(key)
        if value is not None and not isinstance(value, type_):
            yield f'"{key}" must be {name}'
    for key in ("tools", "documents"):
        if isinstance(record.get(key), list) and not all(isinstance(one, dict) for one in record[key]):
            yield f'"{key}" must be a list of objects'
    variables = record.get("chat_template_kwargs")
    for name in variables if isinstance(variables, dict) else ():
        if name in RESERVED:
            yield f'"chat_template_kwargs" cannot set {name!r}: it is no variable of the template'


def _message_faults(index: int, message: Any) -> Iterator[str]:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        yield f'"messages"[{index}] must be {{"role": …, "content": …}}'
        return
    content = message.get("content")
    if content is None and not message.get("tool_calls"):
        yield f'"messages"[{index}] must be {{"role": …, "content": …}}, or have "tool_calls"'
    elif isinstance(content, list):
        yield from _part_faults(f'"messages"[{index}]', content)
    elif content is not None and not isinstance(content, str):
        yield f'"messages"[{index}] has content that is neither text nor a list of parts'


def _part_faults(where: str, parts: list[Any]) -> Iterator[str]:
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            shown = f"a part of type {kind!r}" if kind not in (None, "text") else "a part that is no text"
            yield f'{where} has {shown}; only {{"type": "text", "text": …}} can be fed'


def _suited(messages: list[dict[str, Any]], tokenizer: Any) -> list[dict[str, Any]]:
    """Parts of text as the template expects them: most take one text, those of image models a list of parts."""
    if _loops(tokenizer):
        return messages
    return [
        {**message, "content": "".join(part["text"] for part in message["content"])}
        if isinstance(message.get("content"), list)
        else message
        for message in messages
    ]


def _loops(tokenizer: Any) -> bool:
    template = getattr(tokenizer, "chat_template", None)
    texts = template.values() if isinstance(template, Mapping) else [template]
    return any(LOOPS.search(str(text)) for text in texts)
