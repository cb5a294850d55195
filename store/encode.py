"""NumPy to Arrow: one row per (token, layer), arrays as lists, logits packed without loss.

Lists, not fixed-size arrays: layers may differ in E and k, a row without logits then takes no room (with a tenth of the
logits kept the file was 15 % smaller), unnesting is twice as fast, and inserting no slower (DuckDB 2.0).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from store.batch import HIDDEN, LOST, LOST_REASON, SHARED, Batch, LayerRows

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
        ("logits_32", pa.list_(pa.uint64())),
        ("logits_16", pa.list_(pa.uint32())),
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


PAIRS_FROM = 32  # experts; below, the room counts more than the time


def logits_column(dtype: np.dtype, num_experts: int) -> str:
    """Column of raw.routing for such logits.

    float32 of many experts goes in pairs, as 64-bit words: 0.9 instead of 1.8 µs for a row of 64, but 12 % more room
    than FLOAT[] takes; 16-bit logits go in pairs in any case.
    """
    if dtype.itemsize == 2:
        return "logits_16"
    return "logits_32" if num_experts >= PAIRS_FROM else "logits"


def pack_logits(logits: np.ndarray) -> np.ndarray:
    """float32 of few experts [n, E] as it is; otherwise words [n, ceil(E/2)], uint64 or uint32."""
    n, e = logits.shape
    if logits_column(logits.dtype, e) == "logits":
        return logits
    words = np.zeros((n, -(-e // 2)), np.uint64 if logits.itemsize == 4 else np.uint32)
    if logits.dtype == np.uint16:
        from store.bfloat16 import pack

        pack(np.ascontiguousarray(logits), words)
    else:
        words.view(logits.dtype)[:, :e] = logits
    return words


def unpack_logits(words: np.ndarray, dtype: np.dtype, num_experts: int) -> np.ndarray:
    """Logits [n, E] as float32, exactly, from words of logits that were of `dtype` (uint16: bfloat16 bits)."""
    if dtype != np.uint16:
        return widen(np.ascontiguousarray(words).view(dtype)[:, :num_experts])
    from store.bfloat16 import unpack

    bits = np.empty((len(words), num_experts), np.uint32)
    unpack(np.ascontiguousarray(words), bits)
    return bits.view(np.float32)


def widen(logits: np.ndarray) -> np.ndarray:
    """Logits as float32, exactly."""
    if logits.dtype == np.uint16:
        return (logits.astype(np.uint32) << 16).view(np.float32)
    return np.asarray(logits, dtype=np.float32)


def list_column(
    values: np.ndarray, rows: np.ndarray | None, slots: np.ndarray | None, kind: pa.DataType, ends: Any = None
) -> pa.Array:
    """Arrow list per row of `values` [n, m]: NULL where `rows` (bool [n]) is false, elements NULL where `slots` is.

    ends  int [n]: how many of a row's values are kept, None for all m
    """
    n, m = values.shape
    if ends is not None:
        return _ragged(values, rows, slots, kind, ends)
    keep = np.ones(n, dtype=bool) if rows is None else rows
    offsets = np.zeros(n + 1, dtype=np.int32)
    np.cumsum(keep, dtype=np.int32, out=offsets[1:])
    chosen, live = (values, slots) if keep.all() else (values[keep], None if slots is None else slots[keep])
    dead = None if live is None or live.all() else ~live.reshape(-1)
    flat = pa.array(chosen.reshape(-1), type=kind.value_type, mask=dead)
    empty = None if keep.all() else pa.array(~keep)
    return pa.ListArray.from_arrays(pa.array(offsets * m), flat, type=kind, mask=empty)


def _ragged(values: np.ndarray, rows: np.ndarray | None, slots: np.ndarray | None, kind: pa.DataType, ends: Any) -> Any:
    """Lists of different lengths; a token may get fewer experts than another under an intervention."""
    keep = np.ones(len(values), dtype=bool) if rows is None else rows
    inside = (np.arange(values.shape[1]) < ends[:, None]) & keep[:, None]
    offsets = np.concatenate([[0], np.cumsum(inside.sum(axis=1))]).astype(np.int32)
    dead = None if slots is None else ~slots[inside]
    flat = pa.array(values[inside], type=kind.value_type, mask=dead)
    return pa.ListArray.from_arrays(pa.array(offsets), flat, type=kind, mask=None if keep.all() else pa.array(~keep))


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
    ends = _ends(slots, routed)
    columns: dict[str, Any] = {
        "run_id": _constant(run_id, n, pa.int32()),
        "sequence_id": pa.array(batch.tokens["sequence_id"]).cast(pa.int32()),
        "position": pa.array(batch.tokens["position"]).cast(pa.int32()),
        "layer": _constant(rows.layer, n, pa.int16()),
        "experts": list_column(
            np.where(slots, rows.experts, 0).astype(np.uint16), routed, slots, pa.list_(pa.uint16()), ends
        ),
        "input_absmax": scalar_column(rows.input_absmax, n, pa.float32()),
        "entropy": scalar_column(rows.entropy, n, pa.float32()),
        "margin": scalar_column(rows.margin, n, pa.float32()),
        "missing_reason": _reasons(rows, routed),
    }
    for column, values in _slot_values(rows):
        known = slots & ~np.isnan(values)
        columns[column] = list_column(np.asarray(values, np.float32), routed, known, pa.list_(pa.float32()), ends)
    columns.update(_logits_column(rows))
    ordered = [columns.get(f.name, pa.nulls(n, f.type)) for f in ROUTING]
    return pa.Table.from_arrays(ordered, schema=ROUTING)


def _ends(slots: np.ndarray, routed: np.ndarray) -> np.ndarray | None:
    """[n] where each row's last expert stands, counted from 1; None where all rows are full."""
    if slots.all() or slots[routed].all():
        return None
    return np.asarray(slots.shape[1] - slots[:, ::-1].argmax(axis=1))


def _slot_values(rows: LayerRows) -> list[tuple[str, np.ndarray]]:
    named = (("weights", rows.weights), ("output_norms", rows.output_norm), ("output_absmaxes", rows.output_absmax))
    return [(name, values) for name, values in named if values is not None]


def _constant(value: Any, n: int, kind: pa.DataType) -> pa.Array:
    return pa.repeat(pa.scalar(value, kind), n)


def _reasons(rows: LayerRows, routed: np.ndarray) -> pa.Array:
    if routed.all():
        return pa.nulls(len(routed), pa.string())
    given = "not recorded" if rows.missing_reason is None else rows.missing_reason
    reason = np.where(rows.experts[:, 0] == LOST, LOST_REASON, np.asarray(given, dtype=object))
    return pa.array(reason, type=pa.string(), mask=routed)


def kept_logits(rows: LayerRows) -> np.ndarray | None:
    """Which rows have logits to keep (bool [n]), None for none at all.

    A NaN in a row means there were none; a row of -inf throughout says nothing either, and would spoil every sum.
    """
    if rows.logits is None:
        return None
    n = len(rows.logits)
    kept = np.ones(n, dtype=bool) if rows.logits_kept is None else rows.logits_kept.astype(bool)  # a copy
    first = widen(rows.logits[:, 0])
    void = np.flatnonzero(np.isneginf(first))
    kept[void[np.isneginf(widen(rows.logits[void])).all(axis=1)]] = False
    return kept & ~np.isnan(first)


def _logits_column(rows: LayerRows) -> dict[str, pa.Array]:
    kept = kept_logits(rows)
    if rows.logits is None or kept is None:
        return {}
    words = pack_logits(rows.logits if kept.all() else rows.logits[kept])
    column = logits_column(rows.logits.dtype, rows.logits.shape[1])
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


def hidden_table(run_id: int, batch: Batch, rows: LayerRows) -> pa.Table | None:
    """The rows of raw.hidden for one layer of one batch, None when the residual stream was not measured."""
    return _measured_table(run_id, batch, rows, HIDDEN)


def shared_table(run_id: int, batch: Batch, rows: LayerRows) -> pa.Table | None:
    """The rows of raw.shared for one layer of one batch, None when the shared expert was not measured."""
    return _measured_table(run_id, batch, rows, SHARED)


def norms_table(run_id: int, batch: Batch, rows: LayerRows) -> pa.Table | None:
    """The rows of raw.expert_norms for one layer of one batch, None when not every expert was run."""
    if rows.expert_norm is None:
        return None
    values = np.ascontiguousarray(rows.expert_norm, dtype=np.float32)
    table = _places(run_id, batch, rows).append_column("norms", list_column(values, None, None, pa.list_(pa.float32())))
    return table.filter(pa.array(~np.isnan(values).any(axis=1)))


def _measured_table(run_id: int, batch: Batch, rows: LayerRows, names: tuple[str, ...]) -> pa.Table | None:
    """One row per token whose first value is known."""
    first = getattr(rows, names[0])
    if first is None:
        return None
    table = _places(run_id, batch, rows)
    for name in names:
        table = table.append_column(name, scalar_column(getattr(rows, name), batch.n_tokens, pa.float32()))
    return table.filter(pa.array(~np.isnan(first)))


def _places(run_id: int, batch: Batch, rows: LayerRows) -> pa.Table:
    columns = {
        "run_id": _constant(run_id, batch.n_tokens, pa.int32()),
        "sequence_id": pa.array(batch.tokens["sequence_id"]).cast(pa.int32()),
        "position": pa.array(batch.tokens["position"]).cast(pa.int32()),
        "layer": _constant(rows.layer, batch.n_tokens, pa.int16()),
    }
    return pa.table(columns)
