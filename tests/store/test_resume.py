"""`kill -9` at any moment costs at most the open batch, and a resumed run ends as an uninterrupted one."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from store.errors import TraceError
from store.trace import open_trace
from store.writer import TraceWriter
from tests.store.made import RUN, Plan, dump, make_batch, write
from tests.store.recorder import PLAN, record


def start(path, *words):
    command = [sys.executable, "-m", "tests.store.recorder", str(path), *map(str, words)]
    return subprocess.Popen(command, cwd=Path(__file__).parents[2])


def wait_for_commits(process, path, more=1):
    """Wait until the file has grown by some commits (its progress record is read as any reader would)."""
    deadline = time.monotonic() + 60
    before = None
    while process.poll() is None and time.monotonic() < deadline:
        if path.exists():
            done = int(open_trace(path).run()["batches_done"]) if len(open_trace(path).runs()) else 0
            before = done if before is None else before
            if done >= before + more:
                return
        time.sleep(0.02)


def test_killed_again_and_again_it_ends_with_the_same_rows(tmp_path):
    path, random_ = tmp_path / "killed.duckdb", random.Random(0)
    for _ in range(3):
        process = start(path, 1000, 1, 0.03)
        wait_for_commits(process, path)
        time.sleep(random_.random() * 0.15)
        assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        done = check_whole_batches(path)
    record(path, done + 2, 1)
    record(tmp_path / "whole.duckdb", done + 2, 1 << 20)
    assert dump(path) == dump(tmp_path / "whole.duckdb")


def check_whole_batches(path):
    """What is in the file is exactly the batches its progress record names."""
    trace = open_trace(path)
    run = trace.run()
    done = int(run["batches_done"])
    assert run["status"] in ("interrupted", "complete")
    tokens = sum(make_batch(PLAN, i).n_tokens for i in range(done))
    counts = trace.sql("SELECT (SELECT count(*) FROM tokens) AS t, (SELECT count(*) FROM routing) AS r, "
                       "(SELECT sum(n_tokens + n_missing) FROM layer_stats) AS s")  # fmt: skip
    assert (counts.t[0], counts.r[0], counts.s.fillna(0)[0]) == (tokens, 3 * tokens, 3 * tokens)
    return done


def test_a_log_left_behind_is_read_and_resumed(tmp_path):
    """Killed after the commit but before the checkpoint: the rows are in the log, which readers and writers replay."""
    path = tmp_path / "t.duckdb"
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom tests.store.recorder import *\nimport store.database as d\n"
        "DONE = 'SELECT max(batches_done) FROM raw.runs'\n"
        "class Con:\n"
        "    def __init__(self, con): self.con = con\n"
        "    def __getattr__(self, name): return getattr(self.con, name)\n"
        "    def execute(self, sql, *a):\n"
        "        done = sql == 'CHECKPOINT' and self.con.sql(DONE).fetchall()[0][0]\n"
        "        if done: os._exit(9)\n"
        "        return self.con.execute(sql, *a)\n"
        "real = d.duckdb.connect\nd.duckdb.connect = lambda *a, **k: Con(real(*a, **k))\n"
        "record(Path(sys.argv[1]), 5, 1)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == 9
    assert Path(f"{path}.wal").stat().st_size > 0
    check_whole_batches(path)
    assert open_trace(path).run()["batches_done"] > 0
    from store.sandbox import run_query

    assert run_query(path, "SELECT count(*) AS n FROM routing").rows["n"][0].as_py() > 0
    record(path, 5, 1)
    record(tmp_path / "whole.duckdb", 5, 1)
    assert dump(path) == dump(tmp_path / "whole.duckdb")


def test_abort_keeps_what_it_can_and_can_be_resumed(tmp_path):
    path = tmp_path / "t.duckdb"
    with pytest.raises(RuntimeError, match="model broke"):
        _break_off(path)
    assert open_trace(path).run()["status"] == "interrupted"
    with TraceWriter.resume(path, 1) as writer:
        assert writer.batches_done == 1
        for index in (1, 2):
            writer.write(make_batch(Plan(), index))
    write(tmp_path / "whole.duckdb", batches=3)
    assert dump(path, runs=False) == dump(tmp_path / "whole.duckdb", runs=False)


def _break_off(path):
    with TraceWriter.create(path, RUN, Plan().infos) as writer:
        writer.write(make_batch(Plan(), 0))
        raise RuntimeError("model broke")


def test_batches_come_in_order(tmp_path):
    with TraceWriter.create(tmp_path / "t.duckdb", RUN, Plan().infos) as writer:
        writer.write(make_batch(Plan(), 0))
        with pytest.raises(TraceError, match="batch 2 given, 1 is next"):
            writer.write(make_batch(Plan(), 2))


def test_what_cannot_be_resumed_says_why(tmp_path):
    path = tmp_path / "t.duckdb"
    write(path, batches=1)
    with pytest.raises(TraceError, match="run 1 is complete"):
        TraceWriter.resume(path, 1)
    with pytest.raises(TraceError, match="no run 7; there are: 1"):
        TraceWriter.resume(path, 7)
    with TraceWriter.create(path, RUN, Plan().infos) as writer:
        with pytest.raises(TraceError, match="run 2 is being recorded by this process"):
            TraceWriter.resume(path, 2)
        writer.write(make_batch(Plan(), 0))


def test_a_run_that_another_process_records_is_left_alone(tmp_path):
    path = tmp_path / "t.duckdb"
    process = start(path, 400, 1, 0.05)
    try:
        wait_for_commits(process, path)
        assert open_trace(path).run()["status"] == "recording"
        with pytest.raises(TraceError, match="is being recorded by process"):
            TraceWriter.resume(path, 1)
    finally:
        process.kill()
        process.wait()
    assert open_trace(path).run()["status"] == "interrupted"
