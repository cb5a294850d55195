"""Traces for the tests of the pages, written with the real writer: a router with a taste, and text worth looking at."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from store.batch import Batch, LayerInfo, LayerRows, RunInfo
from store.writer import TraceWriter

SENTENCES = {
    "prose": "The river had risen overnight, and the old bridge, which nobody had crossed since spring, was gone.\n",
    "code": "def mean(values):\n\tif not values:\n\t\treturn 0\n\treturn sum(values) / len(values)\n",
    "sums": "<think> 47 + 38 : 7 + 8 = 15, carry 1; 4 + 3 + 1 = 8 </think> 85.\n",
    "arabic": "كان النهر قد ارتفع في الليل، واختفى الجسر القديم الذي لم يعبره أحد.\n",
}
HOSTILE = (
    "<img src=x onerror=alert(1)>", "![](http://evil.invalid/x.png)", "<script>document.title='owned'</script>", "\x00",
    "\u202eabc\u202c", "</span><b>bold</b>", "[link](javascript:alert(1))", "$x^2$ :red[color]", " ", "\n", "\t", "",
    "<0xE2><0x82>", "\ufffd", "👩‍👩‍👧", "שלום", "\u200b", "&lt;b&gt;", "a" * 500, "{{7*7}}", "\u2028",
)  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """How large a trace is to be, and what is in it."""

    sequences: int = 24
    length: int = 60
    layers: int = 4
    experts: int = 16
    top_k: int = 2
    first_layer: int = 0
    logits: bool = True
    entropy: bool = True
    norms: bool = True
    missing: bool = False


def words_of(text: str) -> list[str]:
    """Pieces that begin with the space before them, as tokenizers cut."""
    pieces = text.replace(" ", "\x1f ").replace("\n", "\x1f\n\x1f").replace("\t", "\x1f\t\x1f").split("\x1f")
    return [piece for piece in pieces if piece]


def write_trace(path: Path, shape: Shape = Shape(), *, tokens: list[str | None] | None = None) -> Path:
    """A complete trace of `shape`; `tokens` replaces the text of the first sequence."""
    with open_writer(path, shape) as writer:
        for batch in batches(shape, tokens):
            writer.write(batch)
    return path


@contextmanager
def recording_trace(path: Path, shape: Shape = Shape()) -> Iterator[TraceWriter]:
    """A trace whose first batch is in and whose recording goes on until the block is left."""
    with open_writer(path, shape, flush_seconds=0.05) as writer:
        writer.write(next(batches(shape)))
        deadline = time.monotonic() + 20
        while not writer.batches_done and time.monotonic() < deadline:
            time.sleep(0.02)
        yield writer


def open_writer(path: Path, shape: Shape, **options: float) -> TraceWriter:
    """A writer for a run of `shape`, with provenance as a recording has it."""
    run = RunInfo(
        name="test", model="example/tiny-moe", revision="0123abc", num_layers=shape.first_layer + shape.layers,
        provenance={"seed": 0, "dtype": "float32", "device": "cpu", "versions": {"torch": "2", "transformers": "5"},
                    "command": "probe record example/tiny-moe --prompts prompts.jsonl --out trace.duckdb"},
    )  # fmt: skip
    numbers = range(shape.first_layer, shape.first_layer + shape.layers)
    layers = [LayerInfo(n, f"model.layers.{n}.mlp.gate", shape.experts, shape.top_k) for n in numbers]
    return TraceWriter.create(path, run, layers, **options)


def batches(shape: Shape, tokens: list[str | None] | None = None) -> Iterator[Batch]:
    """The sequences of `shape`, 64 to a batch."""
    for index, first in enumerate(range(0, shape.sequences, 64)):
        yield _batch(index, range(first, min(first + 64, shape.sequences)), shape, tokens)


def _batch(index: int, numbers: range, shape: Shape, tokens: list[str | None] | None) -> Batch:
    sequences, texts, ids = [], [], []
    for number in numbers:
        label, pieces = _text(number, shape, tokens)
        sequences.append({
            "sequence_id": number, "label": label, "source": "prompts.jsonl", "n_tokens": len(pieces),
            "text": "".join(piece or "" for piece in pieces).replace("\x00", ""),
        })  # fmt: skip
        texts += pieces
        ids += [(number, position) for position in range(len(pieces))]
    where = np.array(ids)
    kinds = np.array([hash_of(text) for text in texts])
    columns = {
        "sequence_id": where[:, 0], "position": where[:, 1], "token_id": kinds, "token": texts,
        "phase": (where[:, 1] > shape.length * 2 // 3).astype(np.int8), "logprob": -np.abs(np.sin(kinds)) * 3,
        "predicted_id": np.roll(kinds, -1),
    }  # fmt: skip
    rows = [_rows(layer, kinds, where, shape) for layer in range(shape.first_layer, shape.first_layer + shape.layers)]
    return Batch(index, sequences, columns, rows)


def _text(number: int, shape: Shape, tokens: list[str | None] | None) -> tuple[str, list[str | None]]:
    if number == 0 and tokens is not None:
        return "hostile", list(tokens)
    label = list(SENTENCES)[number % len(SENTENCES)]
    pieces: list[str | None] = [*words_of(SENTENCES[label])]
    return label, (pieces * (shape.length // len(pieces) + 1))[: shape.length]


def hash_of(text: str | None) -> int:
    """A number for a text that is the same in every process."""
    return sum((at + 1) * ord(character) for at, character in enumerate(text or "")) % 997 + 3


def _rows(layer: int, kinds: np.ndarray, where: np.ndarray, shape: Shape) -> LayerRows:
    """A router whose taste grows with depth: late layers decide by kind of token, early ones hardly at all."""
    rng = np.random.default_rng([layer, int(where[0, 0])])
    taste = np.random.default_rng(layer).normal(size=(1000, shape.experts)) * (0.4 + 2.2 * layer / max(shape.layers, 1))
    favour = np.random.default_rng(layer + 100).normal(size=shape.experts) * 0.6
    logits = (taste[kinds] + favour + rng.normal(size=(len(kinds), shape.experts)) * 0.4).astype(np.float32)
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores /= scores.sum(axis=1, keepdims=True)
    experts = np.argsort(-scores, axis=1)[:, : shape.top_k].astype(np.int16)
    weights = np.take_along_axis(scores, experts.astype(np.int64), axis=1).astype(np.float32)
    if shape.missing and layer == shape.first_layer:
        experts[where[:, 1] < 4] = -1
    ordered = np.take_along_axis(scores, np.argsort(-scores, axis=1)[:, : shape.top_k + 1], axis=1)
    return LayerRows(
        layer, experts, weights / weights.sum(axis=1, keepdims=True), logits if shape.logits else None,
        output_norm=(rng.gamma(9, 0.4, experts.shape)).astype(np.float32) if shape.norms else None,
        entropy=-(scores * np.log(scores + 1e-30)).sum(axis=1).astype(np.float32) if shape.entropy else None,
        margin=ordered[:, -2] - ordered[:, -1] if shape.entropy else None,
        missing_reason="cached prefix" if shape.missing else None,
    )  # fmt: skip
