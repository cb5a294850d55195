"""Taking up an interrupted run: everything the writer keeps in memory, read back from the file."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import numpy as np

from store.aggregate import ARRAYS, EXPERT_MAXIMA, EXPERT_WHERE, SCALARS
from store.alive import is_alive
from store.batch import LayerInfo
from store.commit import Recording
from store.database import now
from store.errors import TraceError


def load_recording(con: Any, path: Path, run_id: int) -> Recording:
    """The state of run `run_id` as its last commit left it, marked as being recorded again by this process."""
    done = _check(con, path, run_id)
    recording = Recording(run_id, _layers(con, run_id))
    recording.batches_done = done
    labels = con.execute("SELECT label FROM raw.labels WHERE run_id = ? ORDER BY label_id", [run_id]).fetchall()
    recording.labels = {label: i for i, (label,) in enumerate(labels)}
    recording.labels_written = len(labels)
    words = "SELECT token_id, text FROM raw.vocabulary WHERE run_id = ? ORDER BY rowid"
    recording.vocabulary.text = dict(con.execute(words, [run_id]).fetchall())
    recording.vocabulary.written()
    _load_totals(con, recording)
    recording.moments.load(con, run_id)
    recording.router_inputs.load(con, run_id)
    con.execute(
        "UPDATE raw.runs SET status = 'recording', finished_at = NULL, writer_pid = ?, writer_host = ?, "
        "heartbeat = ? WHERE run_id = ?",
        [os.getpid(), socket.gethostname(), now(), run_id],
    )
    return recording


def _check(con: Any, path: Path, run_id: int) -> int:
    query = "SELECT status, batches_done, writer_pid, writer_host, heartbeat FROM raw.runs WHERE run_id = ?"
    rows = con.execute(query, [run_id]).fetchall()
    if not rows:
        known = ", ".join(str(r) for (r,) in con.execute("SELECT run_id FROM raw.runs ORDER BY 1").fetchall())
        raise TraceError(f"{path}: no run {run_id}; there are: {known or 'none'}")
    status, done, pid, host, heartbeat = rows[0]
    if status == "complete":
        raise TraceError(f"{path}: run {run_id} is complete; nothing to resume")
    if status == "recording" and pid != os.getpid() and is_alive(pid, host, heartbeat):
        where = "" if host == socket.gethostname() else f" on {host}"
        raise TraceError(
            f"{path}: run {run_id} is being recorded by process {pid}{where}; wait for it or stop it first"
        )
    return int(done)


def _layers(con: Any, run_id: int) -> list[LayerInfo]:
    query = (
        "SELECT layer, module, num_experts, top_k, gating, shared_experts, is_moe, stream, logits_type, slots "
        "FROM raw.layers WHERE run_id = ? ORDER BY layer"
    )
    return [LayerInfo(*row) for row in con.execute(query, [run_id]).fetchall()]


def _load_totals(con: Any, recording: Recording) -> None:
    columns = ", ".join((*SCALARS, *ARRAYS))
    query = f"SELECT layer, label_id, {columns} FROM raw.aggregates WHERE run_id = ?"  # noqa: S608 - our own names
    for layer, label_id, *values in con.execute(query, [recording.run_id]).fetchall():
        totals = recording.totals.layers[layer]
        totals.grow(len(recording.labels) + 1)
        for name, value in zip((*SCALARS, *ARRAYS), values, strict=True):
            unset = name in (*EXPERT_MAXIMA, *EXPERT_WHERE)
            totals.arrays[name][label_id + 1] = [-1 if v is None else v for v in value] if unset else value
    query = "SELECT layer, expert, together FROM raw.coactivation WHERE run_id = ?"
    for layer, expert, together in con.execute(query, [recording.run_id]).fetchall():
        recording.totals.layers[layer].together[expert] = np.array(together)
