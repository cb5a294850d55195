"""NumPy to Arrow: one row per (token, layer), arrays as lists, logits packed without loss.

Lists, not fixed-size arrays: layers may differ in E and k, a row without logits then takes no room (with a tenth of the
logits kept the file was 15 % smaller), unnesting is twice as fast, and inserting no slower (DuckDB 2.0).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

from store.batch import Batch, LayerRows

TYPES: dict[str, np.dtype] = {
    "float32": np.dtype("float32"),
    "float16": np.dtype("float16"),
    "bfloat16": np.dtype("uint16"),
}
TYPE_NAMES = {dtype: name for name, dtype in TYPES.items()}
ROUTING = pa.schema(
    [
        ("run_id", pa.int32()),
        ("sequence_id", pa.int32()),
        ("position", pa.int32()),
        ("layer", pa.int16()),
        ("experts", pa.list_(pa.uint16())),
        ("weights", pa.list_(pa.float32())),
        ("output_norms", pa.list_(pa.float32())),
        ("output_absmaxes", pa.list_(pa.float32())),
        ("input_absmax", pa.float32()),
        ("entropy", pa.float32()),
        ("margin", pa.float32()),
        ("missing_reason", pa.string()),
        ("logits", pa.list_(pa.float32())),
        ("logits_packed", pa.list_(pa.uint32())),
    ]
)
VECTORS = pa.schema(
    [
        ("run_id", pa.int32()),
        ("sequence_id", pa.int32()),
        ("position", pa.int32()),
        ("layer", pa.int16()),
        ("expert", pa.uint16()),
        ("vector", pa.list_(pa.float32())),
    ]
)


def logits_column(dtype: np.dtype) -> str:
    return "logits" if dtype.itemsize == 4 else "logits_packed"


@cache
def _bfloat16_words() -> tuple[np.ndarray, np.ndarray]:
    """Each of the 65,536 bfloat16 patterns as the first and as the second half of a word (layout: schema.sql)."""
    bits = np.arange(65_536, dtype=np.uint32)
    r = (135 - ((bits >> 7) & 255)) & 255
    rest = ((bits & 127) << 1) | (bits >> 15)
    return (r >> 5) << 26 | (r & 31) << 16 | rest, (r >> 5) << 29 | (r & 31) << 21 | rest << 8


def pack_logits(logits: np.ndarray) -> np.ndarray:
    """float32 [n, E] as it is; 16-bit logits two in a word, uint32 [n, ceil(E/2)] (an odd E repeats its last logit)."""
    if logits.itemsize == 4:
        return logits
    bits = np.ascontiguousarray(logits).view(np.uint16)
    if bits.shape[1] % 2:
        bits = np.concatenate([bits, bits[:, -1:]], axis=1)
    if logits.dtype == np.float16:
        return np.ascontiguousarray(bits).view(np.uint32)
    first, second = _bfloat16_words()
    return first[bits[:, 0::2]] | second[bits[:, 1::2]]


@cache
def _bfloat16_parts() -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """For each half of a word: float32 exponent bits by the word's upper 16 bits, the other bits by its lower 16."""
    x = np.arange(65_536, dtype=np.uint32)
    parts = []
    for i in (0, 1):
        r = (((x >> (10 + 3 * i)) & 7) << 5) | ((x >> (5 * i)) & 31)
        rest = (x >> (8 * i)) & 255
        parts.append((((391 - r) & 255) << 23, ((rest & 1) << 31) | ((rest >> 1) << 16)))
    return tuple(parts)


def unpack_logits(words: np.ndarray, dtype: np.dtype, num_experts: int) -> np.ndarray:
    """Logits [n, E] as float32, exactly, from words of logits that were of `dtype` (uint16: bfloat16 bits)."""
    if dtype.itemsize == 4:
        return words
    if dtype == np.float16:
        return widen(np.ascontiguousarray(words).view(np.float16)[:, :num_experts])
    bits = np.empty((len(words), 2 * words.shape[1]), np.uint32)
    upper, lower = words >> 16, words & 65_535
    for i, (exponents, others) in enumerate(_bfloat16_parts()):
        np.bitwise_or(exponents[upper], others[lower], out=bits[:, i::2])
    return bits.view(np.float32)[:, :num_experts]


def widen(logits: np.ndarray) -> np.ndarray:
    """Logits as float32, exactly."""
    if logits.dtype == np.uint16:
        return (logits.astype(np.uint32) << 16).view(np.float32)
    return np.asarray(logits, dtype=np.float32)


def list_column(values: np.ndarray, rows: np.ndarray | None, slots: np.ndarray | None, kind: pa.DataType) -> pa.Array:
    """Arrow list per row of `values` [n, m]: NULL where `rows` (bool [n]) is false, elements NULL where `slots` is."""
    n, m = values.shape
    keep = np.ones(n, dtype=bool) if rows is None else rows
    offsets = np.zeros(n + 1, dtype=np.int32)
    np.cumsum(keep, dtype=np.int32, out=offsets[1:])
    chosen, live = (values, slots) if keep.all() else (values[keep], None if slots is None else slots[keep])
    dead = None if live is None or live.all() else ~live.reshape(-1)
    flat = pa.array(chosen.reshape(-1), type=kind.value_type, mask=dead)
    empty = None if keep.all() else pa.array(~keep)
    return pa.ListArray.from_arrays(pa.array(offsets * m), flat, type=kind, mask=empty)


def scalar_column(values: np.ndarray | None, n: int, kind: pa.DataType) -> pa.Array:
    """Arrow column; NaN and (for integers) negative numbers are NULL."""
    if values is None:
        return pa.nulls(n, kind)
    values = np.asarray(values)
    unknown = np.isnan(values) if values.dtype.kind == "f" else values < 0
    return pa.array(values, mask=unknown if unknown.any() else None).cast(kind)


def routing_table(run_id: int, batch: Batch, rows: LayerRows) -> pa.Table:
    """The rows of raw.routing for one layer of one batch."""
    n = batch.n_tokens
    slots = rows.experts >= 0
    routed = np.asarray(slots.any(axis=1))
    columns: dict[str, Any] = {
        "run_id": _constant(run_id, n, pa.int32()),
        "sequence_id": pa.array(batch.tokens["sequence_id"]).cast(pa.int32()),
        "position": pa.array(batch.tokens["position"]).cast(pa.int32()),
        "layer": _constant(rows.layer, n, pa.int16()),
        "experts": list_column(
            np.where(slots, rows.experts, 0).astype(np.uint16), routed, slots, pa.list_(pa.uint16())
        ),
        "input_absmax": scalar_column(rows.input_absmax, n, pa.float32()),
        "entropy": scalar_column(rows.entropy, n, pa.float32()),
        "margin": scalar_column(rows.margin, n, pa.float32()),
        "missing_reason": _reasons(rows, routed),
    }
    for column, values in _slot_values(rows):
        known = slots & ~np.isnan(values)
        columns[column] = list_column(np.asarray(values, np.float32), routed, known, pa.list_(pa.float32()))
    columns.update(_logits_column(rows))
    ordered = [columns.get(f.name, pa.nulls(n, f.type)) for f in ROUTING]
    return pa.Table.from_arrays(ordered, schema=ROUTING)


def _slot_values(rows: LayerRows) -> list[tuple[str, np.ndarray]]:
    named = (("weights", rows.weights), ("output_norms", rows.output_norm), ("output_absmaxes", rows.output_absmax))
    return [(name, values) for name, values in named if values is not None]


def _constant(value: Any, n: int, kind: pa.DataType) -> pa.Array:
    return pa.repeat(pa.scalar(value, kind), n)


def _reasons(rows: LayerRows, routed: np.ndarray) -> pa.Array:
    if routed.all():
        return pa.nulls(len(routed), pa.string())
    reason = np.full(len(routed), rows.missing_reason or "not recorded", dtype=object)
    return pa.array(reason, type=pa.string(), mask=routed)


def kept_logits(rows: LayerRows) -> np.ndarray | None:
    """Which rows have logits to keep (bool [n]), None for none at all. A NaN in a row means there were none."""
    if rows.logits is None:
        return None
    n = len(rows.logits)
    kept = np.ones(n, dtype=bool) if rows.logits_kept is None else rows.logits_kept.astype(bool)
    return kept & ~np.isnan(widen(rows.logits[:, 0]))


def _logits_column(rows: LayerRows) -> dict[str, pa.Array]:
    kept = kept_logits(rows)
    if rows.logits is None or kept is None:
        return {}
    words = pack_logits(rows.logits if kept.all() else rows.logits[kept])
    column = logits_column(rows.logits.dtype)
    return {column: _spread(words, kept, ROUTING.field(column).type)}


def _spread(values: np.ndarray, kept: np.ndarray, kind: pa.DataType) -> pa.Array:
    """Lists from rows that are already only the kept ones."""
    offsets = np.zeros(len(kept) + 1, dtype=np.int32)
    np.cumsum(kept, dtype=np.int32, out=offsets[1:])
    empty = None if kept.all() else pa.array(~kept)
    return pa.ListArray.from_arrays(
        pa.array(offsets * values.shape[1]), pa.array(values.reshape(-1), type=kind.value_type), type=kind, mask=empty
    )


def vectors_table(run_id: int, batch: Batch, rows: LayerRows) -> pa.Table | None:
    """The rows of raw.output_vectors for one layer of one batch, None when no vectors were kept."""
    if rows.outputs is None:
        return None
    kept = np.ones(batch.n_tokens, dtype=bool) if rows.outputs_kept is None else rows.outputs_kept.astype(bool)
    vectors = rows.outputs[kept] if len(rows.outputs) == len(kept) else rows.outputs
    experts = rows.experts[kept]
    token, slot = np.nonzero(experts >= 0)
    where = np.flatnonzero(kept)[token]
    flat = np.ascontiguousarray(vectors[token, slot], dtype=np.float32)
    arrays = [
        _constant(run_id, len(token), pa.int32()),
        pa.array(np.asarray(batch.tokens["sequence_id"])[where]).cast(pa.int32()),
        pa.array(np.asarray(batch.tokens["position"])[where]).cast(pa.int32()),
        _constant(rows.layer, len(token), pa.int16()),
        pa.array(experts[token, slot].astype(np.uint16)),
        list_column(flat, None, None, pa.list_(pa.float32())),
    ]
    return pa.Table.from_arrays(arrays, schema=VECTORS)
