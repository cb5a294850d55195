"""Record a model's routing over prompts into a trace: the use case that ties model, hooks and store together."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from probes.errors import ProbeError
from probes.prompts import BadPrompt, Prompts, read_prompts
from probes.recording.encode import EncodedPrompt, context_length, encode_prompts
from probes.recording.options import RecordOptions, check_options, parse_capture
from probes.recording.plan import fingerprint, plan_batches, take_shard

if TYPE_CHECKING:
    from probes.recording.rows import RowSettings
    from store.writer import TraceWriter


@dataclass(frozen=True)
class Recorded:
    """What a finished `record` did: where it is, how much it is, and which prompts it had to leave out."""

    path: str
    run_id: int
    sequences: int
    tokens: int
    seconds: float
    bytes: int
    left_out: list[BadPrompt] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Job:
    """Everything that is fixed before the first forward pass."""

    prompts: list[EncodedPrompt]
    batches: list[list[int]]
    fingerprint: str
    left_out: list[BadPrompt]

    @property
    def tokens(self) -> int:
        return sum(len(prompt.ids) for prompt in self.prompts)


def record(
    model: Any,
    prompts: str | Path | Prompts,
    out: str | Path,
    *,
    tokenizer: Any = None,
    resume: bool = False,
    name: str | None = None,
    progress: bool | None = None,
    options: RecordOptions | None = None,
    **settings: Any,
) -> Recorded:
    """Record `prompts` through `model` into the trace `out`.

    model    a folder or hub name, or a loaded model together with its `tokenizer`
    prompts  a path (see `probes.prompts`) or prompts already read
    out      a new trace, or one of the same model, to which a run is added
    resume   go on with the interrupted run in `out`; begins a new one if there is none
    settings fields of RecordOptions by name (capture="logits,norms", max_new_tokens=32, ...)

    Raises ProbeError or store.errors.TraceError, one line each; what is recorded by then stays.
    """
    options = check_options(options or options_from(**settings))
    found = prompts if isinstance(prompts, Prompts) else read_prompts(prompts, options.limit)
    _check_out(Path(out))
    source = str(model) if isinstance(model, str | Path) else getattr(model.config, "_name_or_path", "") or "in memory"
    model, tokenizer = _loaded(model, tokenizer, options)
    job = prepare(model, tokenizer, found, options)
    session = Session(model, tokenizer, job, options, source)
    return session.run(Path(out), resume=resume, name=name, progress=progress)


def options_from(capture: str | Sequence[str] | None = None, **settings: Any) -> RecordOptions:
    """RecordOptions from loose settings; `capture` as text or as a sequence of levels."""
    text = capture if capture is None or isinstance(capture, str) else ",".join(capture)
    try:
        return RecordOptions(capture=parse_capture(text), **settings)
    except TypeError as error:
        raise ProbeError(f"record: {str(error).split('__init__() ')[-1]}") from error


def prepare(model: Any, tokenizer: Any, prompts: Prompts, options: RecordOptions) -> Job:
    """Tokenize, cut into batches, and fingerprint: the part of a recording that needs no forward pass."""
    encoded, too_long = encode_prompts(
        prompts.good,
        tokenizer,
        max_length=options.max_length,
        context=context_length(model),
        new_tokens=options.max_new_tokens,
    )
    encoded = take_shard(encoded, options.shard)
    if not encoded:
        raise ProbeError(f"shard {options.shard} holds no prompt: there are fewer prompts than shards")
    lengths = [len(item.ids) + options.max_new_tokens for item in encoded]
    batches = plan_batches(lengths, options.batch_size, model.device.type)
    print_ = fingerprint([item.ids for item in encoded], batches, options.settings())
    return Job(encoded, batches, print_, [*prompts.bad, *too_long])


def _loaded(model: Any, tokenizer: Any, options: RecordOptions) -> tuple[Any, Any]:
    if isinstance(model, str | Path):
        from probes.model import load_model

        return load_model(
            model,
            dtype=options.dtype,
            device=options.device,
            revision=options.revision,
            trust_remote_code=options.trust_remote_code,
        )
    if tokenizer is None:
        raise ProbeError("record: a loaded model needs its tokenizer (tokenizer=…)")
    return model, tokenizer


def _check_out(out: Path) -> None:
    """Said before a model is loaded, which can take minutes."""
    from store.trace import check_writable

    check_writable(out)
