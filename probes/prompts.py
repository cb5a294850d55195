"""Prompts: JSONL, a text file, a folder of text files, or Parquet, read into one shape.

A bad line never spoils the good ones: it is kept as a `BadPrompt` that names file, line and reason.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from probes.chat import KEYS, ChatOptions, chat_options
from probes.chat import fault as chat_fault
from probes.errors import ProbeError, did_you_mean

CHAT_KEYS = tuple(key for key, _, _ in KEYS)
KNOWN_KEYS = ("text", "messages", "id", "label", "target", "choices", "metadata", *CHAT_KEYS)
JSON_TEXT = ("metadata", "messages", "tools", "documents", "chat_template_kwargs")
OPTIONAL: tuple[tuple[str, type, str], ...] = (
    ("label", str, "a string"),
    ("target", str, "a string"),
    ("metadata", dict, "an object"),
    ("choices", list, "a list"),
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """One sequence to record: `text`, or chat `messages` that the model's own template renders.

    chat    what the template is given beside the messages
    unused  keys of its line that mean nothing
    """

    source: str
    prompt_id: str
    text: str | None = None
    messages: list[dict[str, Any]] | None = None
    label: str | None = None
    target: str | None = None
    choices: list[str] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    chat: ChatOptions = field(default_factory=ChatOptions)
    unused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BadPrompt:
    """A line that could not be used: where it stands and why."""

    source: str
    reason: str

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Prompts:
    """All prompts of a source, the good ones in their order and the bad ones by name."""

    good: list[Prompt]
    bad: list[BadPrompt]


def read_prompts(path: str | Path, limit: int | None = None) -> Prompts:
    """Read every prompt under `path` (JSONL, .txt, a folder of .txt, Parquet); at most `limit` of them.

    Raises ProbeError when the path does not exist, has an unknown kind, or holds no usable prompt.
    """
    path = Path(path)
    prompts = Prompts([], [])
    for item in _read_any(path):
        if limit is not None and len(prompts.good) >= limit:
            break
        (prompts.bad if isinstance(item, BadPrompt) else prompts.good).append(item)  # type: ignore[arg-type]
    if not prompts.good:
        reason = f" ({prompts.bad[0]})" if prompts.bad else ": it is empty"
        raise ProbeError(f"no usable prompt in {path}{reason}")
    return prompts


def _read_any(path: Path) -> Iterator[Prompt | BadPrompt]:
    if not path.exists():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise ProbeError(f"prompts {path} do not exist{did_you_mean(path.name, siblings)}")
    try:
        if path.is_dir():
            yield from _read_folder(path)
        elif path.suffix in (".jsonl", ".ndjson", ".json"):
            yield from _read_jsonl(path)
        elif path.suffix == ".parquet":
            yield from _read_parquet(path)
        elif path.suffix in (".txt", ".md"):
            yield _from_text_file(path)
        else:
            raise ProbeError(
                f"prompts {path}: unknown kind {path.suffix!r}; use .jsonl, .parquet, .txt or a folder of .txt"
            )
    except OSError as error:
        raise ProbeError(f"prompts {path} cannot be read: {error.strerror or error}") from error


def _read_folder(path: Path) -> Iterator[Prompt | BadPrompt]:
    for file in sorted(path.rglob("*.txt")):
        yield _from_text_file(file)


def _from_text_file(file: Path) -> Prompt | BadPrompt:
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        return BadPrompt(str(file), f"not UTF-8 text (byte {error.start})")
    if not text:
        return BadPrompt(str(file), "empty file")
    return Prompt(source=str(file), prompt_id=file.stem, text=text)


def _read_jsonl(path: Path) -> Iterator[Prompt | BadPrompt]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _from_line(f"{path}:{number}", number, line)


def _from_line(source: str, number: int, line: bytes) -> Prompt | BadPrompt:
    try:
        record = json.loads(line)
    except UnicodeDecodeError:
        return BadPrompt(source, "not UTF-8 text")
    except (json.JSONDecodeError, RecursionError) as error:
        detail = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else "nested too deep"
        return BadPrompt(source, f"not valid JSON ({detail})")
    return prompt_from_record(record, source, str(number))


def _read_parquet(path: Path) -> Iterator[Prompt | BadPrompt]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        number = 0
        for batch in file.iter_batches(batch_size=1024):
            for record in batch.to_pylist():
                number += 1
                for key in JSON_TEXT:
                    # Parquet has no free-form objects, so they are commonly written as JSON text.
                    if isinstance(record.get(key), str):
                        record[key] = json.loads(record[key])
                present = _present(record)
                yield prompt_from_record(present, f"{path}: row {number}", str(number))
    except (pa.ArrowInvalid, json.JSONDecodeError) as error:
        raise ProbeError(f"prompts {path}: not a readable Parquet file ({str(error).splitlines()[0]})") from error


def _present(value: Any) -> Any:
    """Without the keys that Parquet fills with null because another row has them."""
    if isinstance(value, dict):
        return {key: _present(one) for key, one in value.items() if one is not None}
    return [_present(one) for one in value] if isinstance(value, list) else value


def prompt_from_record(record: Any, source: str, default_id: str) -> Prompt | BadPrompt:
    """Check one record against the format; `default_id` names it when it has no id of its own."""
    reason = _fault(record)
    if reason:
        return BadPrompt(source, reason)
    return Prompt(
        source=source,
        prompt_id=str(record.get("id", default_id)),
        text=record.get("text"),
        messages=record.get("messages"),
        label=record.get("label"),
        target=record.get("target"),
        choices=record.get("choices"),
        metadata=record.get("metadata") or {},
        chat=chat_options(record),
        unused=_unused(record),
    )


def _unused(record: dict[str, Any]) -> tuple[str, ...]:
    """Unknown keys, and those of a conversation beside a text."""
    useless = () if "messages" in record else CHAT_KEYS
    return tuple(str(key) for key in record if key not in KNOWN_KEYS or key in useless)


def key_notes(prompts: Sequence[Prompt]) -> list[str]:
    """One sentence per key that is not used, however many lines have it."""
    found: dict[str, list[str]] = {}
    for prompt in prompts:
        for key in prompt.unused:
            found.setdefault(key, []).append(prompt.source)
    return [_key_note(key, sources) for key, sources in found.items()]


def _key_note(key: str, sources: list[str]) -> str:
    lines = f"{len(sources):,} prompt{'s' if len(sources) > 1 else ''}, first {sources[0]}"
    if key in CHAT_KEYS:
        return f'the key "{key}" is not used in {lines}: it belongs to "messages"'
    return f'the key "{key}" is not known and not used in {lines}{did_you_mean(key, KNOWN_KEYS)}'


def _fault(record: Any) -> str | None:
    """Why a record cannot be a prompt, or None."""
    if not isinstance(record, dict):
        return f"expected a JSON object, got {_kind(record)}"
    has_text, has_messages = "text" in record, "messages" in record
    if has_text == has_messages:
        return 'needs either "text" or "messages"' + (" and not both" if has_text else _near(record))
    if has_text and not isinstance(record["text"], str):
        return f'"text" must be a string, got {_kind(record["text"])}'
    if has_text and not record["text"]:
        return '"text" is empty'
    for key, type_, name in OPTIONAL:
        value = record.get(key)
        if value is not None and not isinstance(value, type_):
            return f'"{key}" must be {name}, got {_kind(value)}'
    if not isinstance(record.get("id", ""), str | int) or isinstance(record.get("id"), bool):
        return f'"id" must be a string, got {_kind(record["id"])}'
    return chat_fault(record) if has_messages else None


def _near(record: dict[str, Any]) -> str:
    for key in record:
        hint = did_you_mean(str(key), ("text", "messages"))
        if hint and key not in KNOWN_KEYS:
            return f"; found {key!r}{hint}"
    return ""


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true/false", type(None): "null"}
    return names.get(type(value), f"the number {value}" if isinstance(value, int | float) else type(value).__name__)
