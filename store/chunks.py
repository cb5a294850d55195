"""Reading whole sequences as arrays [T, L, ...], a bounded number of tokens at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from store import queries
from store.batch import HIDDEN, LOST, LOST_REASON, SHARED
from store.encode import TYPES, logits_column, unpack_logits

SLOTS = {"experts": "experts", "weights": "weights", "output_norm": "output_norms", "output_absmax": "output_absmaxes"}
SCALARS = ("entropy", "margin", "input_absmax")
ON_REQUEST = {"hidden": HIDDEN, "shared": SHARED, "expert_norms": ("expert_norm",)}  # in tables of their own
COLUMNS = (*SLOTS, "logits", *SCALARS, *(name for names in ON_REQUEST.values() for name in names))
Sequence_ = tuple[int, int, int]  # sequence_id, n_tokens, label_id


def sequence_groups(listed: Iterable[Sequence_], wanted: set[int] | None, max_tokens: int) -> Iterator[list[Sequence_]]:
    """The wanted sequences in order, together at most `max_tokens` tokens (or one longer sequence)."""
    group: list[Sequence_] = []
    size = 0
    for sequence in listed:
        if wanted is not None and sequence[0] not in wanted:
            continue
        if group and size + sequence[1] > max_tokens:
            yield group
            group, size = [], 0
        group.append(sequence)
        size += sequence[1]
    if group:
        yield group


def read_chunk(
    con: Any, run_id: int, info: Any, group: Sequence[Sequence_], columns: Sequence[str], words: dict[int, str]
) -> dict[str, np.ndarray]:
    """The arrays of some sequences in order; `info` is the layers frame of the layers wanted."""
    chosen, only = _which(con, run_id, group)
    chunk = _tokens(con, [run_id, *chosen], only, group, words)
    chunk["layers"] = info.layer.to_numpy(np.int64)
    total = len(chunk["sequence_id"])
    names = [SLOTS[c] for c in columns if c in SLOTS] + [c for c in columns if c in SCALARS]
    names += [f"missing_reason = '{LOST_REASON}' AS lost"] if "experts" in columns else []
    names += _logits_columns(info) if "logits" in columns else []
    query = queries.ROUTING.format(columns=", ".join(names or ["1"]), only=only)
    layers = info.layer.tolist()
    shape, where = (total, len(layers)), [run_id, *chosen, layers]
    routing = [name for name in columns if name in (*SLOTS, *SCALARS, "logits")]
    asked = [
        _on_request(table, [name for name in columns if name in names], only) for table, names in ON_REQUEST.items()
    ]
    for wanted, sql in ((routing, query), *asked):
        if wanted:
            table = con.sql(sql, params=where).to_arrow_table()
            place = _place(chunk, table, info)
            chunk |= {name: _column(name, table, place, shape, info) for name in wanted}
    return chunk


def _on_request(table: str, wanted: list[str], only: str) -> tuple[list[str], str]:
    stored = ["norms AS expert_norm" if name == "expert_norm" else name for name in wanted]
    return wanted, queries.ON_REQUEST.format(columns=", ".join(stored), table=table, only=only)


def _which(con: Any, run_id: int, group: Sequence[Sequence_]) -> tuple[list[Any], str]:
    """First and last id, the ids themselves where there are others between, and the condition for these."""
    ids = [sequence[0] for sequence in group]
    between = con.execute(queries.BETWEEN, [run_id, ids[0], ids[-1]]).fetchall()[0][0]
    return ([ids[0], ids[-1]], "") if between == len(ids) else ([ids[0], ids[-1], ids], queries.ONLY)


def _tokens(
    con: Any, where: list[Any], only: str, group: Sequence[Sequence_], words: dict[int, str]
) -> dict[str, np.ndarray]:
    table = con.sql(queries.TOKENS.format(only=only), params=where).to_arrow_table()
    chunk = {"sequence_id": _ints(table["sequence_id"]), "position": _ints(table["position"])}
    chunk |= {name: _ints(table[name]) for name in ("token_id", "predicted_id", "phase")}
    chunk["logprob"] = _floats(table["logprob"])
    ids = np.array([s[0] for s in group])
    labels = np.array([s[2] for s in group])
    chunk["label"] = labels[np.searchsorted(ids, chunk["sequence_id"])]
    chunk["token"] = _texts(chunk["token_id"], table["text"].to_numpy(), words)
    return chunk


def _texts(ids: np.ndarray, own: np.ndarray, words: dict[int, str]) -> np.ndarray:
    values, back = np.unique(ids, return_inverse=True)
    known = np.array([words.get(int(v)) for v in values], dtype=object)
    texts = known[back] if len(values) else np.zeros(0, dtype=object)
    spoken = np.array([t is not None for t in own], dtype=bool)
    texts[spoken] = own[spoken]
    return texts


def _ints(column: Any) -> np.ndarray:
    return _filled(column, -1, np.int64)


def _floats(column: Any) -> np.ndarray:
    return _filled(column, np.nan, np.float32)


def _filled(column: Any, missing: float, dtype: Any) -> np.ndarray:
    kind = pa.from_numpy_dtype(np.dtype(dtype))
    return column.cast(kind).fill_null(pa.scalar(missing, kind)).to_numpy()


def _place(chunk: dict[str, np.ndarray], table: Any, info: Any) -> np.ndarray:
    """Where each row of the table goes in an array [T * L]."""
    key = (chunk["sequence_id"] << 32) | chunk["position"]
    rows = (_ints(table["sequence_id"]) << 32) | _ints(table["position"])
    layer_of = np.zeros(int(info.layer.max()) + 1, np.int64)
    layer_of[info.layer.to_numpy()] = np.arange(len(info))
    return np.searchsorted(key, rows) * len(info) + layer_of[_ints(table["layer"])]


def _column(name: str, table: Any, place: np.ndarray, shape: tuple[int, int], info: Any) -> np.ndarray:
    if name == "logits":
        return _logits(table, place, shape, info)
    if name in (*SCALARS, *HIDDEN, *SHARED):
        out = np.full(shape, np.nan, np.float32)
        out.reshape(-1)[place] = _floats(table[name])
        return out
    if name == "expert_norm":
        out = np.full((*shape, int(info.num_experts.max())), np.nan, np.float32)
        _scatter(out.reshape(-1, out.shape[-1]), table[name].combine_chunks(), place)
        return out
    k = int(info.slots.max())
    out = _no_experts((*shape, k), info) if name == "experts" else np.full((*shape, k), np.nan, np.float32)
    lists = table[SLOTS[name]].combine_chunks()
    _scatter(out.reshape(-1, k), lists, place)
    if name == "experts":
        lost = table["lost"].combine_chunks().fill_null(False).to_numpy(zero_copy_only=False)
        out.reshape(-1, k)[place[lost], 0] = LOST
    return out


def _no_experts(shape: tuple[int, ...], info: Any) -> np.ndarray:
    return np.full(shape, -1, np.int16 if info.num_experts.max() <= 32_767 else np.int32)


def _scatter(out: np.ndarray, lists: Any, place: np.ndarray) -> None:
    """Put each list into its row of `out`, lists of one length at a time (there is rarely more than one)."""
    lengths = lists.value_lengths().fill_null(0).to_numpy()
    flat = _filled(lists.flatten(), -1 if out.dtype.kind == "i" else np.nan, out.dtype)
    starts = np.cumsum(lengths) - lengths
    for length in np.unique(lengths[lengths > 0]):
        rows = np.flatnonzero(lengths == length)
        if len(rows) * length == len(flat):
            out[place[rows], :length] = flat.reshape(-1, length)
        else:
            out[place[rows], :length] = flat[starts[rows][:, None] + np.arange(length)]


def _logits_columns(info: Any) -> list[str]:
    kinds = zip(info.logits_type, info.num_experts, strict=True)
    return sorted({logits_column(TYPES[name], e) for name, e in kinds if name in TYPES})


def _logits(table: Any, place: np.ndarray, shape: tuple[int, int], info: Any) -> np.ndarray:
    """float32 [T, L, E], NaN where none were kept; exact for every stored type."""
    most = int(info.num_experts.max())
    out = np.full((shape[0] * shape[1], most), np.nan, np.float32)
    for column in _logits_columns(info):
        lists = table[column].combine_chunks()
        kept = np.flatnonzero(lists.is_valid().to_numpy(zero_copy_only=False))
        flat, lengths = lists.flatten().to_numpy(), lists.value_lengths().fill_null(0).to_numpy()[kept]
        starts = np.cumsum(lengths) - lengths
        layer_of = place[kept] % shape[1]
        for i in np.unique(layer_of):
            rows = np.flatnonzero(layer_of == i)
            e = int(info.num_experts[i])
            words = flat[starts[rows][:, None] + np.arange(lengths[rows[0]])]
            out[place[kept[rows]], :e] = unpack_logits(words, TYPES[info.logits_type[i]], e)
    return out.reshape(*shape, most)
