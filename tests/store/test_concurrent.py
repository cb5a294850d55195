"""Readers and a recording share a file: no errors on either side, and always whole batches."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import duckdb
import pytest

from store import database
from store.errors import TraceError
from store.sandbox import run_query
from store.trace import open_trace
from store.writer import TraceWriter
from tests.store.made import RUN, Plan, make_batch, write
from tests.store.recorder import PLAN

BATCHES = 30
SEEN = (
    "SELECT (SELECT max(batches_done) FROM runs) AS done, (SELECT count(*) FROM tokens) AS t, "
    "(SELECT count(*) FROM routing) AS r"
)


@pytest.fixture
def recording(tmp_path):
    """A process that records, and its file."""
    path = tmp_path / "t.duckdb"
    command = [sys.executable, "-m", "tests.store.recorder", str(path), str(BATCHES), "1", "0.1"]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE, text=True)
    yield process, path
    process.kill()
    process.wait()
    process.stderr.close()


def test_readers_beside_a_recording_see_whole_batches(recording):
    process, path = recording
    tokens = [0]
    for index in range(BATCHES):
        tokens.append(tokens[-1] + make_batch(PLAN, index).n_tokens)
    seen = set()
    asked = 0
    while process.poll() is None:
        if not path.exists():
            time.sleep(0.01)
            continue
        done, t, r = look(path, asked)
        assert (t, r) == (tokens[int(done or 0)], 3 * tokens[int(done or 0)])
        seen.add(done)
        asked += 1
    assert process.returncode == 0, process.stderr.read()
    assert len(seen) > 3
    assert open_trace(path).run()["status"] == "complete"


def look(path, asked):
    """Now and then as `probe sql` does, otherwise as the dashboard does."""
    if asked % 20 == 5:
        row = run_query(path, SEEN).rows.to_pylist()[0]
    else:
        row = open_trace(path).sql(SEEN).iloc[0].to_dict()
    return row["done"], row["t"], row["r"]


def test_threads_of_one_process_read_while_it_records(tmp_path):
    path, failures, stop = tmp_path / "t.duckdb", [], threading.Event()
    write(path, batches=1)

    def reading():
        while not stop.is_set():
            try:
                row = open_trace(path).sql(SEEN).iloc[0]
                if row.r != 3 * row.t:
                    failures.append(row)
            except (TraceError, duckdb.Error) as error:
                failures.append(error)

    threads = [threading.Thread(target=reading) for _ in range(2)]
    for thread in threads:
        thread.start()
    with TraceWriter.create(path, RUN, Plan().infos, flush_bytes=1) as writer:
        for index in range(15):
            writer.write(make_batch(Plan(), index))
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert open_trace(path).run()["batches_done"] == 15


def hold(path, seconds):
    """Another process that keeps the file open for writing."""
    code = f"import duckdb, time\ncon = duckdb.connect({str(path)!r})\nprint('open', flush=True)\ntime.sleep({seconds})"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    return process


def test_a_lock_that_stays_is_one_clear_line(tmp_path):
    path = tmp_path / "t.duckdb"
    write(path, batches=1)
    trace = open_trace(path)
    trace.wait = 0.3
    process = hold(path, 60)
    try:
        with pytest.raises(TraceError, match=rf"another process has the file open \(PID {process.pid}\)"):
            trace.runs()
        with pytest.raises(TraceError, match="another process has the file open"):
            TraceWriter.create(path, RUN, Plan().infos, wait=0.3)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert len(trace.runs()) == 1


def test_a_lock_that_goes_is_waited_for(tmp_path):
    path = tmp_path / "t.duckdb"
    write(path, batches=1)
    process = hold(path, 0.7)
    assert len(open_trace(path).runs()) == 1
    process.wait()
    process.stdout.close()


def test_a_reader_in_the_same_process_is_waited_for(tmp_path):
    path = tmp_path / "t.duckdb"
    write(path, batches=1)
    held = duckdb.connect(str(path), read_only=True)
    threading.Timer(0.5, held.close).start()
    with database.writing(path) as con:
        con.execute("UPDATE raw.runs SET name = 'renamed'")
    assert open_trace(path).run()["name"] == "renamed"
