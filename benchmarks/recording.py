"""What does `probe record` cost as a whole? Tokenizing, hooks, rows and writing against the same plain batches."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.models import build, word_tokenizer
from benchmarks.results import Row, Section, Table, ratio_row
from benchmarks.scale import Scale
from benchmarks.timing import Variant, Work, interleave, plain
from probes.prompts import Prompt, Prompts
from probes.recording.record import options_from, prepare, record
from probes.recording.session import feeder, pad

LEVELS = {"logits": "logits,weights", "all": "weights,logits,norms,predictions"}
TARGETS = {"logits": 1.10, "all": 1.20}
SAID = {
    "logits": "`--capture logits,weights`",
    "all": "all: ids, weights, logits, norms, predictions (the default)",
}
METHOD = """\
`probes.record` on a loaded model, from the first prompt's tokenization to the closed trace, against the same
batches through the model alone (they are cut and padded beforehand, outside the clock). Prompts are {low} to {high}
tokens long with eight labels; a batch holds up to 2,048 tokens, padding included. Every recording writes a new
file. The second table takes the pieces apart, each row adding one to the row before: hooks and host arrays; rows
(entropy, margin, alignment, token texts); writing, in a thread of its own beside the model."""


def measure(scale: Scale) -> Section:
    """The recording section: both families, and where the time goes in the first."""
    low, high = lengths(scale)
    section = Section("recording", "`probe record` as a whole", METHOD.format(low=low, high=high))
    tokenizer = word_tokenizer(scale.shape.vocabulary)
    for family in scale.families:
        model = build(family, scale.shape)
        section.tables.append(whole(family, model, tokenizer, scale))
    section.tables.append(pieces(family, model, tokenizer, scale))
    section.notes.append(f"Shape: {scale.shape}; random weights, float32.")
    return section


def lengths(scale: Scale) -> tuple[int, int]:
    """Shortest and longest prompt."""
    return (4, 16) if scale.record_tokens < 4096 else (128, 512)


def made_prompts(total: int, scale: Scale) -> Prompts:
    """Prompts of random words with about `total` tokens together, the same ones every time."""
    rng, (low, high) = np.random.default_rng(0), lengths(scale)
    good: list[Prompt] = []
    left = total
    while left > 0:
        words = rng.integers(1, scale.shape.vocabulary, rng.integers(low, high + 1))
        number = len(good)
        text = " ".join(f"w{word}" for word in words)
        good.append(Prompt(f"made:{number}", str(number), text=text, label=f"label {number % 8}"))
        left -= len(words)
    return Prompts(good, [])


def plain_batches(model: Any, tokenizer: Any, prompts: Prompts) -> Work:
    """The batches of a recording through the model alone."""
    import torch

    job = prepare(model, tokenizer, prompts, options_from())
    inputs = []
    for batch in job.batches:
        ids, mask = pad([job.prompts[i].ids for i in batch], 0, left=False, device=model.device)
        inputs.append({"input_ids": ids} | ({} if mask is None else {"attention_mask": mask}))

    def work() -> None:
        with torch.no_grad():
            for given in inputs:
                model(use_cache=False, **given)

    return work


def recording(
    model: Any, tokenizer: Any, prompts: Prompts, capture: str, sizes: dict[str, int] | None = None
) -> Variant:
    """The whole of `record` into a new file, which is gone afterwards; its size stays in `sizes`."""

    @contextmanager
    def variant() -> Iterator[Work]:
        with TemporaryDirectory() as folder:
            names = (Path(folder) / f"{n}.duckdb" for n in itertools.count())

            def work() -> None:
                done = record(model, prompts, next(names), tokenizer=tokenizer, capture=capture, progress=False)
                if sizes is not None:
                    sizes[capture] = done.bytes

            yield work

    return variant


def whole(family: str, model: Any, tokenizer: Any, scale: Scale) -> Table:
    """Plain, logits, all."""
    prompts = made_prompts(scale.record_tokens, scale)
    count = sum(len(item.ids) for item in prepare(model, tokenizer, prompts, options_from()).prompts)
    sizes: dict[str, int] = {}
    variants = {"plain": plain(plain_batches(model, tokenizer, prompts))}
    variants |= {name: recording(model, tokenizer, prompts, capture, sizes) for name, capture in LEVELS.items()}
    timings = interleave(variants, scale.record_rounds, warm=0)
    rows = []
    for name, capture in LEVELS.items():
        note = f"{count / timings.time(name).median:,.0f} tokens/s, file {sizes[capture] / 1e6:,.0f} MB"
        rows.append(ratio_row(SAID[name], timings, name, "plain", TARGETS[name], note))
    seconds = timings.time("plain").median
    return Table(
        f"{family}: {count:,} tokens in {len(prompts.good):,} prompts",
        rows,
        base=f"plain: {seconds:.1f} s, {count / seconds:,.0f} tokens/s; {timings.disturbance}",
    )


def pieces(family: str, model: Any, tokenizer: Any, scale: Scale) -> Table:
    """Each step of recording added to the one before, for both levels."""
    prompts = made_prompts(scale.parts_tokens, scale)
    variants = {"plain": plain(plain_batches(model, tokenizer, prompts))}
    for name, capture in LEVELS.items():
        variants[f"{name}: hooks and host arrays"] = stepped(model, tokenizer, prompts, capture, rows=False)
        variants[f"{name}: and rows"] = stepped(model, tokenizer, prompts, capture, rows=True)
        variants[f"{name}: and writing (all of `record`)"] = recording(model, tokenizer, prompts, capture)
    timings = interleave(variants, scale.parts_rounds, warm=0)
    rows: list[Row] = [ratio_row(name, timings, name, "plain") for name in variants if name != "plain"]
    return Table(
        f"{family}, step by step", rows, base=f"plain: {timings.time('plain').median:.1f} s; {timings.disturbance}"
    )


def stepped(model: Any, tokenizer: Any, prompts: Prompts, capture: str, *, rows: bool) -> Variant:
    """A recording that stops after the host arrays, or after its rows, and writes nothing."""
    options = options_from(capture)
    job = prepare(model, tokenizer, prompts, options)

    def work() -> None:
        with feeder(model, tokenizer, options) as feed:
            for index, batch in enumerate(job.batches):
                group = [job.prompts[i] for i in batch]
                if rows:
                    feed.batch(index, group)
                else:
                    feed._read(group)
                    feed.recorder.take()
                    _ = feed.predictions.take() if feed.predictions else []

    return plain(work)
