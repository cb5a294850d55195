"""Whatever is wrong ends in one clear line; nothing recorded is lost, nothing half-written is left."""

import os
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pytest

from store.batch import LayerInfo, RunInfo
from store.errors import TraceError
from store.trace import open_trace
from store.writer import TraceWriter
from tests.store.made import RUN, Plan, dump, make_batch, write

ROOT = Path(__file__).parents[2]


def refused(action, words):
    with pytest.raises(TraceError, match=words) as caught:
        action()
    assert "\n" not in str(caught.value)


def create(path, run=RUN):
    return TraceWriter.create(path, run, Plan().infos)


def test_no_file(tmp_path):
    refused(lambda: open_trace(tmp_path / "none.duckdb"), "no such file")


def test_not_a_database(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("hello\n" * 5000)
    refused(lambda: open_trace(path), "not a trace")
    refused(lambda: create(path), "not a trace")
    assert path.read_text() == "hello\n" * 5000


@pytest.mark.parametrize("content", [b"", b"x", b"SQLite format 3\x00" * 50])
def test_other_files(tmp_path, content):
    path = tmp_path / "other"
    path.write_bytes(content)
    refused(lambda: open_trace(path), "not a trace|another program")


def test_a_database_of_another_program(tmp_path):
    path = tmp_path / "shop.duckdb"
    with duckdb.connect(str(path)) as con:
        con.execute("CREATE TABLE goods (name VARCHAR); INSERT INTO goods VALUES ('tea')")
    refused(lambda: open_trace(path), "database of another program")
    refused(lambda: create(path), "database of another program")
    with duckdb.connect(str(path)) as con:
        assert con.execute("SHOW TABLES").fetchall() == [("goods",)]


def test_another_model(tmp_path):
    path = tmp_path / "t.duckdb"
    write(path, batches=1)
    before = dump(path)
    refused(
        lambda: create(path, RunInfo("x", "another/model")),
        r"already a trace of another model \(example/made, not another/model\)",
    )
    assert dump(path) == before


def test_no_such_directory(tmp_path):
    refused(lambda: create(tmp_path / "nowhere" / "t.duckdb"), "no such directory")


def test_a_directory(tmp_path):
    refused(lambda: create(tmp_path), "is a directory")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_not_writable(tmp_path):
    tmp_path.chmod(0o500)
    refused(lambda: create(tmp_path / "t.duckdb"), "cannot be written")


def test_not_writable_by_anybody():
    refused(lambda: create(Path("/proc/t.duckdb")), "/proc/t.duckdb: cannot be written")


def test_layers_that_cannot_be(tmp_path):
    for infos in ([], [LayerInfo(0, "a", 4, 5)], [LayerInfo(0, "a", 4, 2)] * 2):
        refused(lambda i=infos: TraceWriter.create(tmp_path / "t.duckdb", RUN, i), "layer")
    assert not (tmp_path / "t.duckdb").exists()


def spoil(name, value):
    def change(batch):
        setattr(batch.layers[0], name, value(batch.layers[0]))

    return change


BAD = {
    "ids out of range": (spoil("experts", lambda r: r.experts + 8), r"expert ids must lie in -2\.\.7"),
    "too many slots": (spoil("experts", lambda r: np.zeros((len(r.experts), 5), int)), "do not fit"),
    "weights shape": (spoil("weights", lambda r: r.weights[:, :1]), "weights has shape"),
    "logits shape": (spoil("logits", lambda r: r.logits[:, :3]), "logits has shape"),
    "logits type": (spoil("logits", lambda r: r.logits.astype(np.float64)), "logits are float64"),
    "entropy shape": (spoil("entropy", lambda r: r.entropy[1:]), "entropy has shape"),
    "outputs shape": (spoil("outputs", lambda r: np.zeros((1, 1, 1))), "outputs have shape"),
    "unknown layer": (spoil("layer", lambda r: 3), "layer 3 is not one of the run"),
    "layer twice": (spoil("layer", lambda r: 2), "layer 2 is given twice"),
    "tokens of a stranger": (lambda b: b.sequences.pop(), "not in the batch"),
    "sequence twice": (lambda b: b.sequences.append(b.sequences[0]), "a sequence is given twice"),
    "token columns": (lambda b: b.tokens.update(token_id=np.zeros(1)), r"tokens\['token_id'\] has 1 entries"),
    "no position": (lambda b: b.tokens.pop("position"), "need 'position'"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_batches_are_named_and_do_not_reach_the_file(tmp_path, what):
    path = tmp_path / "t.duckdb"
    change, words = BAD[what]
    batch = make_batch(Plan(), 1)
    change(batch)
    with create(path) as writer:
        writer.write(make_batch(Plan(), 0))
        refused(lambda: writer.write(batch), words)
        writer.write(make_batch(Plan(), 1))
    write(tmp_path / "whole.duckdb", batches=2)
    assert dump(path) == dump(tmp_path / "whole.duckdb")


def test_a_changed_precision_is_refused(tmp_path):
    writer = create(tmp_path / "t.duckdb")
    writer.write(make_batch(Plan(), 0))
    writer.write(make_batch(Plan(logits="bfloat16"), 1))
    refused(writer.finish, "logits are bfloat16, before they were float32")


def test_a_new_run_without_a_batch_goes_again(tmp_path):
    path = tmp_path / "t.duckdb"
    write(path, batches=1)
    before = dump(path)
    create(path).abort()
    assert dump(path) == before
    create(tmp_path / "new.duckdb").abort()
    assert os.listdir(tmp_path) == ["t.duckdb"]


FULL = """
import resource, signal, sys
from pathlib import Path
from store.errors import TraceError
from store.writer import TraceWriter
from tests.store.made import RUN, Plan, make_batch
path, limit, batches = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
plan = Plan(sequences=40, length=200)
make = [make_batch(plan, i) for i in range(batches)]
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    with TraceWriter.create(path, RUN, plan.infos, flush_bytes=1) as writer:
        for batch in make:
            writer.write(batch)
except TraceError as error:
    print(error)
    sys.exit(3)
"""


def record_until_full(path, limit, batches=20):
    command = [sys.executable, "-W", "error", "-c", FULL, str(path), str(limit), str(batches)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_full_disk_keeps_what_is_committed(tmp_path):
    path = tmp_path / "t.duckdb"
    done = record_until_full(path, 6 << 20)
    assert done.returncode == 3, done.stderr
    assert "the disk is full or a limit was reached" in done.stdout
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
    trace = open_trace(path)
    run = trace.run()
    assert run["status"] == "interrupted"
    plan = Plan(sequences=40, length=200)
    tokens = sum(make_batch(plan, i).n_tokens for i in range(run["batches_done"]))
    assert 0 < trace.sql("SELECT count(*) AS n FROM tokens").n[0] == tokens
    with TraceWriter.resume(path, 1) as writer:
        writer.write(make_batch(plan, writer.batches_done))
    assert open_trace(path).run()["status"] == "complete"


def test_a_disk_full_from_the_start_leaves_nothing(tmp_path):
    done = record_until_full(tmp_path / "t.duckdb", 200_000)
    assert done.returncode == 3, done.stderr
    assert "the disk is full or a limit was reached" in done.stdout
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("value", [5, None, b"t.duckdb", ["t.duckdb"], 1.5])
def test_what_is_no_path_is_refused_in_one_line(value):
    with pytest.raises(TraceError, match=r"^a trace takes the name of a file, not "):
        open_trace(value)
