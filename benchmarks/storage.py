"""How large is a trace, and how fast is it written? Made-up routing straight into the writer, no model."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.models import Shape
from benchmarks.results import AT_LEAST, Row, Section, Table
from benchmarks.scale import Scale
from benchmarks.timing import spread
from store.batch import Batch, LayerInfo, LayerRows, RunInfo
from store.writer import TraceWriter

LENGTH, PER_BATCH, REPLAYS = 512, 4, 4
KEPT = {
    "ids + weights": (None, False),
    "ids + weights + float32 logits": ("float32", False),
    "ids + weights + bfloat16 logits": ("bfloat16", False),
    "ids + weights + float32 logits + norms and maxima": ("float32", True),
}
NOTHING = "an empty trace"
SIZE_TARGET, RATES = 1.15, {None: 1.0, "float32": 0.5, "bfloat16": 0.5}
METHOD = """\
Batches of {per} sequences of {length} tokens are made beforehand (Gaussian logits with a bias per expert, their
top-k and softmax weights, entropy and margin as a recording adds them) and handed to `store.writer.TraceWriter`,
{replays} times over under new sequence numbers. Rate: rows of one token and one layer per second of CPU time of the
whole process from opening to the closed file (both threads), which is the rate on one core; the rate by the clock
stands beside it, with the disk in it. Size: the closed file, keys, aggregates, tokens, entropy and margin included,
against the raw bytes of what was asked for alone: ids at one byte, weights, norms and maxima at four, logits at
four or two. What a trace costs before its first row is in both, and has its own rows."""


@dataclass(frozen=True)
class Written:
    """One file: its size, and seconds of CPU and clock."""

    size: int
    cpu: float
    wall: float


def measure(scale: Scale) -> Section:
    """The storage section."""
    section = Section(
        "storage", "The trace: size and writing", METHOD.format(per=PER_BATCH, length=LENGTH, replays=REPLAYS)
    )
    made = {name: list(made_batches(scale.shape, scale.store_tokens, *kept)) for name, kept in KEPT.items()}
    batches: dict[str, list[Batch]] = {NOTHING: []} | {name: replayed(once) for name, once in made.items()}
    found: dict[str, list[Written]] = {name: [] for name in batches}
    names = list(batches)
    for number in range(-1, scale.store_rounds):  # the first round compiles, and is thrown away
        at = max(number, 0) % len(names)
        for name in names[at:] + names[:at]:
            written = write(batches[name], scale.shape)
            if number >= 0:
                found[name].append(written)
    rows = sum(batch.n_rows for batch in batches[names[-1]])
    what = f"{rows:,} rows, {scale.shape.experts} experts, top-{scale.shape.top_k}"
    rates = [_rate(name, KEPT[name][0], rows, found[name]) for name in KEPT]
    sizes = [_size(name, batches[name], KEPT[name][0], scale.shape, found[name][-1].size) for name in KEPT]
    empty = spread([w.cpu for w in found[NOTHING]])
    rates.append(Row(NOTHING, empty.median, "s of CPU", empty.low, empty.high, empty.rounds))
    sizes.append(Row(NOTHING, found[NOTHING][-1].size / 1e6, "MB"))
    section.tables = [Table(f"Writing ({what})", rates), Table(f"Size ({what})", sizes)]
    return section


def replayed(batches: list[Batch], times: int = REPLAYS) -> list[Batch]:
    """The batches so many times over, each time as other sequences; the arrays are shared."""
    sequences = sum(len(batch.sequences) for batch in batches)
    return [_moved(batch, n * len(batches), n * sequences) for n in range(times) for batch in batches]


def _moved(batch: Batch, index: int, sequence: int) -> Batch:
    sequences = [{**s, "sequence_id": s["sequence_id"] + sequence} for s in batch.sequences]
    tokens = {**batch.tokens, "sequence_id": batch.tokens["sequence_id"] + np.int32(sequence)}
    return replace(batch, index=batch.index + index, sequences=sequences, tokens=tokens)


def made_batches(shape: Shape, total: int, dtype: str | None, norms: bool, labels: int = 8) -> Iterator[Batch]:
    """Batches of `PER_BATCH` sequences until `total` tokens are there."""
    rng = np.random.default_rng(0)
    length = min(LENGTH, total)
    bias = rng.normal(0, 0.5, (shape.layers, shape.experts)).astype(np.float32)
    for first in range(0, max(1, total // length), PER_BATCH):
        ids = range(first, min(first + PER_BATCH, total // length))
        n = len(ids) * length
        tokens = {
            "sequence_id": np.repeat(np.array(ids, np.int32), length),
            "position": np.tile(np.arange(length, dtype=np.int32), len(ids)),
            "token_id": rng.integers(0, shape.vocabulary, n).astype(np.int32),
            "phase": np.zeros(n, np.uint8),
        }
        layers = [made_rows(rng, layer, n, shape, bias[layer], dtype, norms) for layer in range(shape.layers)]
        sequences = [{"sequence_id": i, "label": f"label {i % labels}"} for i in ids]
        yield Batch(first // PER_BATCH, sequences, tokens, layers)


def made_rows(
    rng: np.random.Generator, layer: int, n: int, shape: Shape, bias: np.ndarray, dtype: str | None, norms: bool
) -> LayerRows:
    """One layer's routing of `n` tokens, consistent in itself."""
    from probes.scores import entropy, margin, probabilities

    logits = rng.normal(0, 1, (n, shape.experts)).astype(np.float32) + bias
    p = probabilities(logits)
    experts = np.argsort(-p, axis=1, kind="stable")[:, : shape.top_k]
    extra: dict[str, Any] = {"entropy": entropy(p), "margin": margin(p, experts)}
    if norms:
        size = (n, shape.top_k)
        extra["output_norm"] = rng.gamma(9, 0.3, size).astype(np.float32)
        extra["output_absmax"] = (extra["output_norm"] * rng.uniform(0.1, 0.3, size)).astype(np.float32)
        extra["input_absmax"] = rng.gamma(9, 0.3, n).astype(np.float32)
    if dtype is not None:
        extra["logits"] = logits if dtype == "float32" else (logits.view(np.uint32) >> 16).astype(np.uint16)
    weights = np.take_along_axis(p, experts, axis=1)
    return LayerRows(layer, experts.astype(np.int16), weights=weights, **extra)


def write(batches: list[Batch], shape: Shape, path: Path | None = None) -> Written:
    """Write the batches into a new trace; a temporary one without a `path`."""
    if path is None:
        with TemporaryDirectory() as folder:
            return write(batches, shape, Path(folder) / "trace.duckdb")
    layers = [LayerInfo(layer, f"layers.{layer}.gate", shape.experts, shape.top_k) for layer in range(shape.layers)]
    cpu, wall = time.process_time(), time.perf_counter()
    with TraceWriter.create(path, RunInfo("benchmark", "made up"), layers) as writer:
        for batch in batches:
            writer.write(batch)
    return Written(path.stat().st_size, time.process_time() - cpu, time.perf_counter() - wall)


def raw_bytes(batches: list[Batch], shape: Shape, dtype: str | None) -> int:
    """Bytes of ids, weights, logits, norms and maxima in the smallest type that holds them exactly."""
    rows = batches[0].layers[0]
    id_bytes = 1 if shape.experts <= 256 else 2
    each = shape.top_k * (id_bytes + 4) + {None: 0, "float32": 4, "bfloat16": 2}[dtype] * shape.experts
    if rows.output_norm is not None:
        each += 4 * (2 * shape.top_k + 1)
    return each * sum(batch.n_rows for batch in batches)


def _rate(name: str, dtype: str | None, rows: int, found: list[Written]) -> Row:
    rate = spread([rows / w.cpu / 1e6 for w in found])
    clock = spread([rows / w.wall / 1e6 for w in found])
    target = RATES[dtype] if "norms" not in name else None
    return Row(
        name,
        rate.median,
        "M rows/s per core",
        rate.low,
        rate.high,
        rate.rounds,
        target,
        AT_LEAST,
        f"{clock.median:.2f} M rows/s by the clock",
    )


def _size(name: str, batches: list[Batch], dtype: str | None, shape: Shape, size: int) -> Row:
    raw = raw_bytes(batches, shape, dtype)
    target = SIZE_TARGET if dtype else None
    return Row(name, size / raw, "x raw", target=target, note=f"{size / 1e6:.1f} MB of {raw / 1e6:.1f} MB")
