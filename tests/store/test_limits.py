"""Size on disk, memory while recording, and answers from aggregates: bounds that hold for any length."""

import json
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import numpy as np
import pytest

from store import database
from store.batch import Batch, LayerInfo, LayerRows
from store.trace import open_trace
from store.writer import TraceWriter
from tests.store.made import RUN, as_type


def routed(rng, n, e, k, logits, layer):
    """Routing as models produce it: weights a softmax over the chosen, in descending order."""
    values = rng.standard_normal((n, e)).astype(np.float32) * 1.5
    experts = np.argsort(-values, axis=1)[:, :k]
    weights = np.exp(np.take_along_axis(values, experts, 1))
    entropy, margin = rng.random((2, n), dtype=np.float32)
    norms = rng.gamma(4, 1, (2, n, k)).astype(np.float32)
    kept = None if logits is None else as_type(values, logits)
    weights /= weights.sum(axis=1, keepdims=True)
    return LayerRows(
        layer,
        experts.astype(np.int16),
        weights,
        kept,
        output_norm=norms[0],
        output_absmax=norms[1],
        entropy=entropy,
        margin=margin,
    )


def batches(count, shape, logits, n=4096):
    """`count` batches of 32 sequences; the arrays are made once."""
    layers, e, k = shape
    rng = np.random.default_rng(0)
    rows = [routed(rng, n, e, k, logits, layer) for layer in range(layers)]
    for index in range(count):
        sequence = np.repeat(np.arange(32), n // 32) + 32 * index
        tokens = {
            "sequence_id": sequence,
            "position": np.tile(np.arange(n // 32), 32),
            "token_id": rng.integers(0, 999, n),
        }
        made = [{"sequence_id": int(i), "label": f"label {i % 8}"} for i in np.unique(sequence)]
        yield Batch(index, made, tokens, rows)


def record(path, count, shape, logits, **options):
    layers, e, k = shape
    infos = [LayerInfo(i, f"layers.{i}.mlp.gate", e, k) for i in range(layers)]
    with TraceWriter.create(path, RUN, infos, **options) as writer:
        for batch in batches(count, shape, logits):
            writer.write(batch)
    return path


@pytest.mark.parametrize("logits", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(4, 64, 8), (4, 16, 2)], ids=["64 experts", "16 experts"])
def test_a_trace_is_at_most_a_seventh_larger_than_what_was_asked_for(tmp_path, logits, shape):
    layers, e, k = shape
    path = record(tmp_path / "t.duckdb", 8, shape, logits)
    rows = 8 * 4096 * layers
    raw = rows * (e * (4 if logits == "float32" else 2) + k * (1 + 4 + 4 + 4))
    assert path.stat().st_size <= 1.15 * raw


def test_many_small_flushes_do_not_leave_a_file_of_holes(tmp_path):
    whole = record(tmp_path / "whole.duckdb", 12, (2, 16, 2), "float32")
    parts = record(tmp_path / "parts.duckdb", 12, (2, 16, 2), "float32", flush_bytes=1)
    assert parts.stat().st_size < 2 * whole.stat().st_size


PEAK = """
import json, resource, sys
from pathlib import Path
from tests.store.test_limits import record
record(Path(sys.argv[1]), int(sys.argv[2]), (8, 64, 8), "bfloat16", flush_bytes=8 << 20)
print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))
"""


def peak(path, count):
    """Peak memory of a recording in a process of its own, MiB."""
    command = [sys.executable, "-c", PEAK, str(path), str(count)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    return json.loads(done.stdout) / 1024


def test_memory_does_not_grow_with_the_recording(tmp_path):
    short, long = peak(tmp_path / "short.duckdb", 6), peak(tmp_path / "long.duckdb", 24)
    assert long < 1.15 * short + 16


def test_answers_from_aggregates_do_not_scan_the_trace(tmp_path):
    """The tables of rows are not even opened: without their rows the answer is the same."""
    path = record(tmp_path / "long.duckdb", 8, (4, 64, 8), None)
    long = open_trace(path)
    whole = long.aggregates(1)
    plan = long.sql("EXPLAIN SELECT layer, expert, sum(n_tokens) FROM expert_stats GROUP BY ALL").iloc[0, 1]
    assert "raw.routing" not in plan
    assert "raw.aggregates" in plan
    with duckdb.connect(path) as con:
        for table in ("routing", "tokens"):
            con.execute(f"DELETE FROM raw.{table}")
    np.testing.assert_equal(open_trace(path).aggregates(1), whole)


def test_a_waiting_queue_is_bounded(tmp_path, monkeypatch):
    """The writer thread is held up: `write` blocks instead of piling batches up."""
    monkeypatch.setattr("store.writer.QUEUE_BYTES", 1 << 20)
    infos = [LayerInfo(i, f"layers.{i}", 16, 2) for i in range(2)]
    made = list(batches(6, (2, 16, 2), "float32"))
    writer = TraceWriter.create(tmp_path / "t.duckdb", RUN, infos, flush_bytes=1)
    held = database.connect(tmp_path / "t.duckdb", read_only=True)
    waiting = []

    def write():
        for batch in made:
            writer.write(batch)
            waiting.append(writer._queue.waiting)

    import threading

    thread = threading.Thread(target=write)
    thread.start()
    time.sleep(0.5)
    assert thread.is_alive()
    assert max(waiting) <= max(1 << 20, made[0].nbytes)
    held.close()
    thread.join()
    writer.finish()
    assert open_trace(tmp_path / "t.duckdb").run()["batches_done"] == 6
