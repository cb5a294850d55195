"""One flush: everything of some whole batches, and the progress record, in one transaction."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from store.aggregate import ARRAYS, EXPERT_COUNTS, EXPERT_MAXIMA, EXPERT_WHERE, SCALARS, Totals
from store.batch import Batch, LayerInfo, RunInfo
from store.database import now
from store.encode import (
    TYPE_NAMES,
    hidden_table,
    norms_table,
    routing_table,
    scalar_column,
    shared_table,
    vectors_table,
)
from store.errors import TraceError
from store.moments import Moments
from store.router_inputs import RouterInputs
from store.vocabulary import Vocabulary

# What a recording keeps only when asked: the table it goes to, and how its rows are made.
ON_REQUEST = {
    "output_vectors": vectors_table,
    "hidden": hidden_table,
    "shared": shared_table,
    "expert_norms": norms_table,
}


@dataclass
class Pending:
    """What waits for the next flush, as Arrow."""

    routing: dict[int, list[pa.Table]] = field(default_factory=dict)
    asked: dict[str, list[pa.Table]] = field(default_factory=dict)
    tokens: list[pa.Table] = field(default_factory=list)
    sequences: list[dict[str, Any]] = field(default_factory=list)
    batches: int = 0
    n_tokens: int = 0
    n_rows: int = 0
    nbytes: int = 0


class Recording:
    """A run's running state (labels, vocabulary, totals, progress) and how it gets into the file."""

    def __init__(self, run_id: int, layers: Sequence[LayerInfo]):
        self.run_id = run_id
        self.layers = {info.layer: info for info in layers}
        self.labels: dict[str, int] = {}
        self.labels_written = 0
        self.logits_types = {info.layer: info.logits_type for info in layers if info.logits_type}
        self.types_written = len(self.logits_types)
        self.vocabulary = Vocabulary()
        self.totals = Totals(layers)
        self.moments = Moments()
        self.router_inputs = RouterInputs()
        self.batches_done = 0
        self.pending = Pending()
        self.facts: dict[str, Any] = {}

    def add(self, batch: Batch) -> None:
        """Encode a checked batch into what is pending, and count it."""
        self._note_types(batch)
        group = self._groups(batch)
        self.totals.add(batch, group, len(self.labels) + 1)
        self.moments.add(batch.moments or {})
        self.router_inputs.add(batch.router_inputs or {})
        p = self.pending
        for rows in batch.layers:
            table = routing_table(self.run_id, batch, rows)
            p.routing.setdefault(rows.layer, []).append(table)
            p.nbytes += table.nbytes
            for name, more in ON_REQUEST.items():
                extra = more(self.run_id, batch, rows)
                if extra is not None:
                    p.asked.setdefault(name, []).append(extra)
                    p.nbytes += extra.nbytes
        p.tokens.append(self._tokens(batch))
        p.sequences += self._sequences(batch)
        p.batches, p.n_tokens, p.n_rows = p.batches + 1, p.n_tokens + batch.n_tokens, p.n_rows + batch.n_rows
        p.nbytes += p.tokens[-1].nbytes + sum(len(s["text"] or "") for s in p.sequences[-len(batch.sequences) :])

    def _note_types(self, batch: Batch) -> None:
        for rows in batch.layers:
            if rows.logits is None:
                continue
            name = TYPE_NAMES[rows.logits.dtype]
            known = self.logits_types.setdefault(rows.layer, name)
            if known != name:
                raise TraceError(
                    f"batch {batch.index}: layer {rows.layer}: logits are {name}, before they were {known}"
                )

    def _groups(self, batch: Batch) -> np.ndarray:
        """[n] 0 for a token of a sequence without a label, else the label's number plus one."""
        ids = np.array([s["sequence_id"] for s in batch.sequences], dtype=np.int64)
        of = np.array([self._label(s.get("label")) + 1 for s in batch.sequences], dtype=np.int32)
        order = np.argsort(ids)
        return of[order][np.searchsorted(ids[order], batch.tokens["sequence_id"])]

    def _label(self, label: Any) -> int:
        return -1 if label is None else self.labels.setdefault(str(label), len(self.labels))

    def _sequences(self, batch: Batch) -> list[dict[str, Any]]:
        counted = dict(
            zip(*(a.tolist() for a in np.unique(batch.tokens["sequence_id"], return_counts=True)), strict=True)
        )
        return [
            {
                "run_id": self.run_id,
                "sequence_id": int(s["sequence_id"]),
                "prompt_id": None if s.get("prompt_id") is None else str(s["prompt_id"]),
                "label_id": self._label(s.get("label")),
                "source": s.get("source"),
                "text": s.get("text"),
                "n_tokens": counted.get(int(s["sequence_id"]), 0),
                "metadata": None if s.get("metadata") is None else json.dumps(s["metadata"]),
            }
            for s in batch.sequences
        ]

    def _tokens(self, batch: Batch) -> pa.Table:
        t, n = batch.tokens, batch.n_tokens
        columns = {
            "run_id": pa.repeat(pa.scalar(self.run_id, pa.int32()), n),
            "sequence_id": pa.array(t["sequence_id"]).cast(pa.int32()),
            "position": pa.array(t["position"]).cast(pa.int32()),
            "token_id": scalar_column(t.get("token_id"), n, pa.int32()),
            "phase": scalar_column(t.get("phase"), n, pa.uint8()),
            "logprob": scalar_column(t.get("logprob"), n, pa.float32()),
            "predicted_id": scalar_column(t.get("predicted_id"), n, pa.int32()),
            "text": self.vocabulary.overrides(t.get("token_id"), t.get("token"), n),
        }
        return pa.table(columns)

    def commit(self, con: Any, status: str = "recording") -> None:
        """Write what is pending inside the caller's transaction."""
        p = self.pending
        # Layer by layer: one layer of all tokens is then read without the others, and a sequence still lies together.
        routing = [table for layer in sorted(p.routing) for table in p.routing[layer]]
        for name, tables in (("routing", routing), *p.asked.items(), ("tokens", p.tokens)):
            if tables:
                _insert(con, name, pa.concat_tables(tables))
        if p.sequences:
            _insert(con, "sequences", pa.Table.from_pylist(p.sequences, schema=_SEQUENCES))
        self._commit_names(con)
        self._commit_totals(con)
        self.moments.commit(con, self.run_id)
        self.router_inputs.commit(con, self.run_id)
        self._commit_progress(con, status)

    def _commit_names(self, con: Any) -> None:
        new = list(self.labels)[self.labels_written :]
        rows = [(self.run_id, self.labels_written + i, label) for i, label in enumerate(new)]
        if rows:
            con.executemany("INSERT INTO raw.labels VALUES (?, ?, ?)", rows)
        if len(self.logits_types) > self.types_written:
            for layer, name in self.logits_types.items():
                query = "UPDATE raw.layers SET logits_type = ? WHERE run_id = ? AND layer = ?"
                con.execute(query, [name, self.run_id, layer])
        words = self.vocabulary.unwritten(self.run_id)
        if words is not None:
            _insert(con, "vocabulary", words)

    def _commit_totals(self, con: Any) -> None:
        groups = sorted(self.totals.touched)
        if not groups:
            return
        con.execute(
            "DELETE FROM raw.aggregates WHERE run_id = ? AND list_contains(?, label_id)",
            [self.run_id, [g - 1 for g in groups]],
        )
        _insert(con, "aggregates", totals_table(self.run_id, self.totals, groups))
        con.execute("DELETE FROM raw.coactivation WHERE run_id = ?", [self.run_id])
        _insert(con, "coactivation", coactivation_table(self.run_id, self.totals))

    def _commit_progress(self, con: Any, status: str) -> None:
        p, over = self.pending, status != "recording"
        con.execute(
            "UPDATE raw.runs SET status = ?, batches_done = ?, n_sequences = n_sequences + ?, n_tokens = n_tokens + ?, "
            "heartbeat = ?, writer_pid = ?, writer_host = ?, finished_at = ? WHERE run_id = ?",
            [
                *(status, self.batches_done + p.batches, len(p.sequences), p.n_tokens, now()),
                *((None, None, now()) if over else (os.getpid(), socket.gethostname(), None)),
                self.run_id,
            ],
        )
        if self.facts:
            query = "UPDATE raw.runs SET provenance = json_merge_patch(provenance, ?) WHERE run_id = ?"
            con.execute(query, [json.dumps(self.facts, default=str), self.run_id])

    def committed(self) -> None:
        """The transaction is through: forget what was pending."""
        self.batches_done += self.pending.batches
        self.pending = Pending()
        self.labels_written = len(self.labels)
        self.types_written = len(self.logits_types)
        self.vocabulary.written()
        self.totals.touched.clear()
        self.moments.touched.clear()
        self.router_inputs.touched.clear()


_SEQUENCES = pa.schema(
    [
        ("run_id", pa.int32()),
        ("sequence_id", pa.int32()),
        ("prompt_id", pa.string()),
        ("label_id", pa.int32()),
        ("source", pa.string()),
        ("text", pa.string()),
        ("n_tokens", pa.int32()),
        ("metadata", pa.string()),
    ]
)


def _insert(con: Any, table: str, rows: pa.Table) -> None:
    con.register("arriving", rows)
    try:
        con.execute(f"INSERT INTO raw.{table} BY NAME SELECT * FROM arriving")  # noqa: S608 - our own table names
    finally:
        con.unregister("arriving")


def totals_table(run_id: int, totals: Totals, groups: Iterable[int]) -> pa.Table:
    """Rows of raw.aggregates for the given groups; maxima that nothing set are NULL."""
    rows: dict[str, list[Any]] = {"run_id": [], "layer": [], "label_id": []}
    rows |= {name: [] for name in (*SCALARS, *ARRAYS)}
    for layer, kept in totals.layers.items():
        for g in groups:
            if not kept.arrays["n_tokens"][g] and not kept.arrays["n_missing"][g]:
                continue
            for name, value in (("run_id", run_id), ("layer", layer), ("label_id", g - 1)):
                rows[name].append(value)
            for name in (*SCALARS, *ARRAYS):
                rows[name].append(kept.arrays[name][g])
    return pa.table({name: _totals_column(name, values) for name, values in rows.items()})


def _totals_column(name: str, values: list[Any]) -> pa.Array:
    if name not in ARRAYS:
        return pa.array(values)
    lengths = np.cumsum([0, *(len(v) for v in values)])
    flat = np.concatenate(values) if values else np.zeros(0)
    unset = flat < 0 if name in (*EXPERT_MAXIMA, *EXPERT_WHERE) else None
    kind = pa.int64() if name in EXPERT_COUNTS else pa.from_numpy_dtype(flat.dtype)
    return pa.ListArray.from_arrays(pa.array(lengths, pa.int32()), pa.array(flat, kind, mask=unset))


def coactivation_table(run_id: int, totals: Totals) -> pa.Table:
    """Rows of raw.coactivation: for each layer and expert the counts with every expert."""
    parts = []
    for layer, kept in totals.layers.items():
        e = len(kept.together)
        offsets = pa.array(np.arange(0, e * e + 1, e), pa.int32())
        parts.append(
            pa.table(
                {
                    "run_id": pa.repeat(pa.scalar(run_id, pa.int32()), e),
                    "layer": pa.repeat(pa.scalar(layer, pa.int16()), e),
                    "expert": pa.array(np.arange(e, dtype=np.uint16)),
                    "together": pa.ListArray.from_arrays(offsets, pa.array(kept.together.reshape(-1).copy())),
                }
            )
        )
    return pa.concat_tables(parts)


def insert_run(con: Any, run: RunInfo, layers: Sequence[LayerInfo], kept: Any) -> int:
    """The rows of a new run and its layers; returns its number."""
    run_id = int(con.execute("SELECT coalesce(max(run_id), 0) + 1 FROM raw.runs").fetchall()[0][0])
    con.execute(
        "INSERT INTO raw.runs BY NAME SELECT ? AS run_id, ? AS name, ? AS created_at, ? AS model, "
        "? AS revision, 'recording' AS status, ? AS num_layers, ? AS intervention, ? AS baseline_run_id, "
        "? AS provenance, ? AS capture, 0 AS batches_done, 0 AS n_sequences, 0 AS n_tokens, ? AS heartbeat, "
        "? AS writer_pid, ? AS writer_host",
        [
            *(run_id, run.name, now(), run.model, run.revision, run.num_layers or len(layers), _json(run.intervention)),
            *(run.baseline_run_id, json.dumps(run.provenance, default=str), _json(kept), now()),
            *(os.getpid(), socket.gethostname()),
        ],
    )
    rows = [
        (
            run_id,
            i.layer,
            i.module,
            i.is_moe,
            i.num_experts,
            i.top_k,
            i.gating,
            i.shared_experts,
            i.stream,
            None,
            i.width,
        )
        for i in layers
    ]
    con.executemany("INSERT INTO raw.layers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
    return run_id


def _json(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value if value is None else json.dumps(value) if not _is_json(value) else value
    return json.dumps(value, default=str)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
