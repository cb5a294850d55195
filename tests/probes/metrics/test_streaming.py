"""Traces larger than memory: what a metric takes is bounded, and it reads every row as often as in a short trace.

The routing of the made-up trace is rows of a small pool, shifted: what is measured does not depend on which they are.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from probes.analysis import analyze
from store.batch import Batch, LayerInfo, LayerRows, RunInfo
from store.trace import open_trace
from store.writer import TraceWriter

LAYERS, EXPERTS, TOP_K, LENGTH, TOGETHER = 16, 64, 8, 1024, 32
LIMIT = 2 << 30
ASK = """
import json, pathlib, sys
from probes.analysis import analyze
from store.trace import Trace

sizes, read = [], Trace.chunks

def counted(self, *args, **options):
    for chunk in read(self, *args, **options):
        sizes.append(len(chunk["sequence_id"]))
        yield chunk

Trace.chunks = counted
found = []
for metric, options in json.loads(sys.argv[2]):
    sizes.clear()
    analyze(sys.argv[1], metric, **options)
    found.append([metric, sum(sizes)])
# Of this program alone: what getrusage tells includes the process it was forked from.
status = pathlib.Path("/proc/self/status").read_text()
peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
print(json.dumps({"found": found, "peak": peak * 1024}))
"""
STORED = [["load", {}], ["npmi", {}], ["coactivation", {}]]
STREAMED = [
    *([["load", {"by": "label", "layers": "3"}], ["coactivation", {"adjacent_rank": True}]]),  # load: from stored sums
    *([["npmi", {"target": "token", "layers": "3", "min_count": 100}], ["srp", {"segment_length": 16}]]),
    ["sch", {"segment_length": 16, "level": "layer", "cache_size": [8, 16]}],
]


def make(path: Path, tokens: int) -> Path:
    """`tokens` (in whole batches) of eight labels, through the real writer."""
    rng = np.random.default_rng(0)
    n = TOGETHER * LENGTH
    pool = np.argsort(rng.random((n, EXPERTS)), axis=1)[:, :TOP_K].astype(np.int16)
    infos = [LayerInfo(layer, f"layers.{layer}", EXPERTS, TOP_K) for layer in range(LAYERS)]
    with TraceWriter.create(path, RunInfo("made", "made", num_layers=LAYERS), infos, kept={}) as writer:
        for index in range(tokens // n):
            writer.write(_batch(index, pool, n))
        writer.finish()
    return path


def _batch(index: int, pool: np.ndarray, n: int) -> Batch:
    ids = index * TOGETHER + np.arange(TOGETHER)
    sequences = [{"sequence_id": int(i), "label": f"d{i % 8}", "n_tokens": LENGTH} for i in ids]
    tokens = {"sequence_id": np.repeat(ids, LENGTH).astype(np.int32)}
    tokens |= {"position": np.tile(np.arange(LENGTH, dtype=np.int32), TOGETHER)}
    tokens |= {"token_id": (np.arange(n) % 2000).astype(np.int32)}
    layers = [LayerRows(layer, np.roll(pool, 37 * index + 11 * layer, axis=0)) for layer in range(LAYERS)]
    return Batch(index, sequences, tokens, layers)


def ask(path: Path, wanted: list[Any]) -> dict[str, Any]:
    """What a fresh process says, and the most memory it held."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", ASK, str(path), json.dumps(wanted)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_memory_and_the_number_of_passes_do_not_grow_with_the_trace(tmp_path: Path) -> None:
    million = TOGETHER * LENGTH * 32
    small, large = (make(tmp_path / f"{n}.duckdb", n * million // 2) for n in (1, 2))
    ask(small, STREAMED)  # compiles what is compiled
    first, second = ask(small, STREAMED), ask(large, STREAMED)
    assert second["peak"] < LIMIT
    assert second["peak"] < 1.25 * first["peak"]
    once = {(name, tokens) for name in ("coactivation", "npmi", "srp", "sch") for tokens in (million // 2, million)}
    assert {(name, read) for name, read in first["found"] + second["found"] if read} == once


def test_stored_sums_answer_however_long_the_trace_is(tmp_path: Path) -> None:
    """Same answer from the sums as from the rows, and no chunk is read for it."""
    path = make(tmp_path / "t.duckdb", TOGETHER * LENGTH)
    trace = open_trace(path)
    trace.chunks = None  # type: ignore[assignment, method-assign]
    for metric, options in STORED:
        stored = analyze(trace, metric, **options)
        streamed = analyze(path, metric, **options, ci=True, resamples=2)
        assert stored.equals(streamed.drop(columns=["ci_low", "ci_high"])), metric
