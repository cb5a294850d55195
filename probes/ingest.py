"""Import a recording made elsewhere into a trace: the use case that ties importers and store together."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from probes.errors import ProbeError
from probes.importers.npz import Imported, read_npz
from probes.parsing import place
from probes.recording.target import check_target
from probes.routing import NO_EXPERT, RoutingArrays
from probes.scores import UNKNOWN, entropy, margin, probabilities
from probes.void import ALL_INFINITE, all_infinite

if TYPE_CHECKING:
    from store.batch import Batch, LayerInfo, LayerRows

TOKENS_PER_BATCH = 16_384
NOT_IN_FILE = "no routing in the imported file"


@dataclass(frozen=True)
class Ingested:
    """What an import did."""

    path: str
    run_id: int
    sequences: int
    tokens: int
    seconds: float
    bytes: int
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def describe(self) -> str:
        """One line for people."""
        return (
            f"run {self.run_id} in {self.path}: {self.sequences:,} sequences, {self.tokens:,} tokens, "
            f"{self.bytes / 1e6:,.1f} MB in {self.seconds:.1f} s"
        )


def import_npz(
    source: str | Path,
    out: str | Path,
    *,
    model_config: str | Path | None = None,
    name: str | None = None,
    allow_missing: bool = False,
    allow_mismatch: bool = False,
) -> Ingested:
    """Write the neutral routing file `source` into the trace `out` as a run of its own.

    Raises ProbeError or store.errors.TraceError, one line each; a new `out` is removed again when the import fails.
    """
    source, out = place(source, "the file to import"), place(out, "out")
    from store.batch import RunInfo
    from store.writer import TraceWriter

    started = time.perf_counter()
    check_target(Path(out))
    config = _read_config(model_config)
    found = read_npz(source, allow_missing=allow_missing, allow_mismatch=allow_mismatch, config=config)
    notes = [*found.notes, *_void_note(found.arrays)]
    run = RunInfo(
        name=name or Path(source).stem,
        model=config.get("_name_or_path") or config.get("model_type") or f"imported: {Path(source).name}",
        num_layers=config.get("num_hidden_layers") or int(found.arrays.layers.max()) + 1,
        provenance={"imported_from": Path(source).name, "sha256": _sha256(Path(source)), "notes": notes},
    )
    with TraceWriter.create(out, run, list(_layers(found)), kept=_kept(found.arrays)) as writer:
        for index, starts in enumerate(_cuts(found)):
            writer.write(_batch(found, index, starts))
        writer.finish()
    return Ingested(
        path=str(out),
        run_id=writer.run_id,
        sequences=len(_starts(found.arrays.sequence_id)) - 1,
        tokens=len(found.arrays.sequence_id),
        seconds=time.perf_counter() - started,
        bytes=Path(out).stat().st_size,
        notes=notes,
    )


def _void_note(arrays: RoutingArrays) -> list[str]:
    if arrays.logits is None or not (rows := int(all_infinite(arrays.logits).sum())):
        return []
    return [f"{rows:,} rows (token and layer) are stored as missing, because their logits are all -inf"]


def _read_config(path: str | Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ProbeError(f"--model-config {path} is not a readable JSON file ({error})") from error
    if not isinstance(config, dict):
        raise ProbeError(f"--model-config {path} must hold a JSON object")
    inner = config.get("text_config")
    return config | inner if isinstance(inner, dict) else config


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _kept(arrays: RoutingArrays) -> dict[str, Any]:
    optional = ("weights", "logits", "output_norm", "output_absmax", "predicted_id")
    return {"levels": ["ids", *(name for name in optional if getattr(arrays, name) is not None)]}


def _layers(found: Imported) -> Iterator[LayerInfo]:
    from store.batch import LayerInfo

    arrays = found.arrays
    for index, layer in enumerate(arrays.layers.tolist()):
        yield LayerInfo(
            layer=layer,
            module="",
            num_experts=arrays.num_experts,
            top_k=arrays.top_k,
            slots=arrays.slots,
            gating=found.gating,
            is_moe=index not in found.dense_layers,
        )


def _starts(sequence_id: np.ndarray) -> np.ndarray:
    return np.flatnonzero(np.r_[True, sequence_id[1:] != sequence_id[:-1], True])


def _cuts(found: Imported) -> Iterator[np.ndarray]:
    """Starts of whole sequences (and the end of the last), about TOKENS_PER_BATCH tokens at a time."""
    starts = _starts(found.arrays.sequence_id)
    first = 0
    for index in range(1, len(starts)):
        last = index == len(starts) - 1
        if last or starts[index + 1] - starts[first] > TOKENS_PER_BATCH:
            yield starts[first : index + 1]
            first = index


def _batch(found: Imported, index: int, starts: np.ndarray) -> Batch:
    from store.batch import Batch

    arrays, rows = found.arrays, slice(int(starts[0]), int(starts[-1]))
    lengths = np.diff(starts)
    ids = arrays.sequence_id[starts[:-1]].tolist()
    labels = [None] * len(ids) if arrays.label is None else [arrays.label_names[i] for i in arrays.label[starts[:-1]]]
    sequences = [
        {"sequence_id": sequence, "label": label, "n_tokens": int(length)}
        for sequence, label, length in zip(ids, labels, lengths, strict=True)
    ]
    position = np.arange(rows.start, rows.stop) - np.repeat(starts[:-1], lengths)
    tokens: dict[str, Any] = {"sequence_id": arrays.sequence_id[rows], "position": position.astype(np.int32)}
    for key in ("token_id", "predicted_id"):
        if getattr(arrays, key) is not None:
            tokens[key] = getattr(arrays, key)[rows]
    if arrays.token is not None:
        tokens["token"] = arrays.token[rows].tolist()
    layers = [_rows(found, layer, rows) for layer in range(len(arrays.layers))]
    return Batch(index=index, sequences=sequences, tokens=tokens, layers=layers)


def _rows(found: Imported, index: int, rows: slice) -> LayerRows:
    from store.batch import LayerRows

    arrays = found.arrays
    experts = arrays.experts[rows, index]
    reason: Any = NOT_IN_FILE
    given: dict[str, Any] = {
        name: getattr(arrays, name)[rows, index]
        for name in ("weights", "output_norm", "output_absmax")
        if getattr(arrays, name) is not None
    }
    if arrays.logits is not None:
        logits = np.ascontiguousarray(arrays.logits[rows, index])
        void = all_infinite(logits)
        if void.any():
            reason = np.where(void, ALL_INFINITE, NOT_IN_FILE).astype(object)
            experts = np.where(void[:, None], NO_EXPERT, experts).astype(experts.dtype)
            given = {name: np.where(void[:, None], np.nan, values) for name, values in given.items()}
        known = ~np.isnan(logits).any(axis=1) & ~void
        given |= {"logits": logits, "logits_kept": None if known.all() else known}
        given |= _scores(found.scoring, logits, known, experts)
    return LayerRows(layer=int(arrays.layers[index]), experts=experts, missing_reason=reason, **given)


def _scores(scoring: str, logits: np.ndarray, known: np.ndarray, experts: np.ndarray) -> dict[str, np.ndarray]:
    """Entropy and margin [T]; NaN in rows without logits, none where it is not known how logits become scores."""
    if scoring == UNKNOWN:
        return {}
    p = probabilities(np.where(known[:, None], logits, 0).astype(np.float64), scoring)
    return {"entropy": np.where(known, entropy(p), np.nan), "margin": np.where(known, margin(p, experts), np.nan)}
