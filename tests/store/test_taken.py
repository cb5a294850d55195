"""A file that is taken: who has it is said truly and soon, and at a terminal one sees what is waited for."""

import gc
import subprocess
import sys
import threading
import time

import duckdb
import pytest

from store import database
from store.errors import TraceError
from store.trace import open_trace
from store.writer import TraceWriter
from tests.store.made import RUN, Plan, make_batch, write

OPEN_HERE = r"this process has it open by a DuckDB connection of its own \(duckdb.connect\): close that first"


@pytest.fixture
def path(tmp_path):
    write(tmp_path / "t.duckdb", batches=1)
    return tmp_path / "t.duckdb"


def seconds(action, match):
    began = time.monotonic()
    with pytest.raises(TraceError, match=match):
        action()
    return time.monotonic() - began


def test_a_connection_of_the_same_process_is_named_at_once(path):
    held = duckdb.connect(str(path), read_only=True)
    assert seconds(lambda: TraceWriter.create(path, RUN, Plan().infos), OPEN_HERE) < 3
    assert len(open_trace(path).runs()) == 1  # to read is allowed beside a reader
    held.close()
    held = duckdb.connect(str(path))
    assert seconds(lambda: open_trace(path), OPEN_HERE) < 3
    held.close()
    held = duckdb.connect()
    held.execute(f"ATTACH '{path}' AS trace (READ_ONLY)")  # under the name that ours has
    assert seconds(lambda: TraceWriter.resume(path, 1), OPEN_HERE) < 3
    held.close()
    assert len(open_trace(path).runs()) == 1


def test_a_connection_nobody_has_any_more_is_no_obstacle(path):
    gc.disable()
    try:
        ring = [duckdb.connect(str(path), read_only=True)]
        ring.append(ring)
        del ring
        with TraceWriter.create(path, RUN, Plan().infos) as writer:
            writer.write(make_batch(Plan(), 0))
    finally:
        gc.enable()
    assert len(open_trace(path).runs()) == 2


def test_a_thread_does_not_wait_for_itself(path):
    trace = open_trace(path)

    def write_inside():
        with trace.held(), database.writing(path):
            pass

    assert seconds(write_inside, "this thread has it open already") < 1


def test_another_thread_of_ours_is_waited_for(path):
    trace, held = open_trace(path), threading.Event()

    def reading():
        with trace.held():
            held.set()
            time.sleep(2.5)  # longer than a stranger is waited for

    thread = threading.Thread(target=reading)
    thread.start()
    held.wait()
    with database.writing(path) as con:
        con.execute("UPDATE raw.runs SET name = 'renamed'")
    thread.join()
    assert trace.run()["name"] == "renamed"


def test_a_recording_under_way_waits_for_a_stranger(path):
    with TraceWriter.create(path, RUN, Plan().infos, flush_bytes=1) as writer:
        held = duckdb.connect(str(path), read_only=True)
        threading.Timer(2.5, held.close).start()
        writer.write(make_batch(Plan(), 0))
    assert open_trace(path).run(2)["status"] == "complete"


@pytest.fixture
def other(path):
    """Another process that reads the file and goes on reading."""
    code = f"import duckdb, time\ncon = duckdb.connect({str(path)!r}, read_only=True)\nprint(1, flush=True)\n"
    code += "time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code, "a-reader"], stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_another_process_is_named_with_what_it_runs(path, other):
    said = rf"another process has the file open \(PID {other.pid}\), which runs .*python.*; try again"
    assert seconds(lambda: TraceWriter.create(path, RUN, Plan().infos, wait=0.3), said) < 2


def test_a_beginning_waits_less_than_a_recording_under_way(path, other, monkeypatch):
    monkeypatch.setattr(database, "START_WAIT", 0.3)
    assert seconds(lambda: TraceWriter.create(path, RUN, Plan().infos), f"PID {other.pid}") < 3


def test_a_terminal_is_told_what_is_waited_for(path, other, monkeypatch, capsys):
    monkeypatch.setattr(database, "TELL_AFTER", 0.2)
    assert seconds(lambda: TraceWriter.create(path, RUN, Plan().infos, wait=0.5), "PID")
    assert capsys.readouterr().err == ""  # no terminal, no line
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert seconds(lambda: TraceWriter.create(path, RUN, Plan().infos, wait=0.8), "PID")
    (line,) = capsys.readouterr().err.splitlines()
    assert f"another process has the file open (PID {other.pid})" in line
    assert "waiting for it, up to 1 s" in line
