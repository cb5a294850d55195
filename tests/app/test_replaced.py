"""A file of the same name replaced by another: what was remembered of the first is not shown for the second."""

import os
import shutil

import pytest

from app import data
from app.steering.live import Models
from app.trace_file import identify
from store import database
from store.parquet import export_parquet
from store.trace import open_trace
from tests.app.conftest import shown
from tests.app.traces import Shape, write_trace

SHAPE = Shape(sequences=8, length=20, layers=2)


def copied(source, target):
    """Over the old file: its number stays the same."""
    shutil.copyfile(source, target)


def moved(source, target):
    """Into its place."""
    os.replace(shutil.copyfile(source, target.with_suffix(".new")), target)


@pytest.fixture
def two(tmp_path):
    """Two traces of one size and shape that chose other experts and have other words."""
    first = write_trace(tmp_path / "t.duckdb", SHAPE)
    other = shutil.copyfile(first, tmp_path / "other.duckdb")
    with database.writing(other) as con:
        con.execute("UPDATE raw.aggregates SET chosen = list_reverse(chosen)")
        con.execute("UPDATE raw.vocabulary SET text = upper(text) || '!'")
        con.execute("UPDATE raw.runs SET name = 'other'")
    for path in (first, other):  # an equal size, as two recordings of one shape have it; DuckDB ignores the rest
        os.truncate(path, 2_000_000)
    return first, other


@pytest.mark.parametrize("put", [copied, moved])
def test_the_dashboard_shows_the_file_that_is_there(two, put):
    first, other = two
    before = identify(str(first))
    load, kept = data.load(before, 1)["count"].tolist(), first.stat()
    put(other, first)
    os.utime(first, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    after = identify(str(first))
    assert (after.changed_ns, after.n_bytes) == (before.changed_ns, before.n_bytes)
    assert after != before
    assert data.load(after, 1)["count"].tolist() != load
    assert data.runs(after)["name"].tolist() == ["other"]


@pytest.mark.parametrize("put", [copied, moved])
def test_an_open_trace_reads_the_words_of_the_file_that_is_there(two, put):
    first, other = two
    trace = open_trace(first)
    words = [list(chunk["token"]) for chunk in trace.chunks(1)]
    put(other, first)
    after = [list(chunk["token"]) for chunk in trace.chunks(1)]
    assert after == [list(chunk["token"]) for chunk in open_trace(first).chunks(1)]
    assert "THE!" in after[0]
    assert "THE!" not in words[0]


def test_shards_replaced_in_place_are_read_anew(two, tmp_path):
    folders = [export_parquet(open_trace(path), tmp_path / path.stem) for path in two]
    assert open_trace(folders[0]).run(1)["name"] == "test"
    kept = (folders[0] / "manifest.json").stat()
    for file in folders[1].iterdir():
        copied(file, folders[0] / file.name)
    assert (folders[0] / "manifest.json").stat().st_size == kept.st_size
    os.utime(folders[0] / "manifest.json", ns=(kept.st_atime_ns, kept.st_mtime_ns))
    assert open_trace(folders[0]).run(1)["name"] == "other"


def test_a_replaced_model_is_loaded_anew(tmp_path):
    folder, loaded = tmp_path / "model", []
    folder.mkdir()
    weights = folder / "model.safetensors"
    weights.write_bytes(b"first")
    models = Models(lambda path: loaded.append(weights.read_bytes()) or loaded[-1])
    for _ in range(2):
        with models.use(str(folder)) as model:
            assert model == b"first"
    kept = weights.stat()
    weights.write_bytes(b"other")
    os.utime(weights, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    with models.use(str(folder)) as model:
        assert model == b"other"
    assert loaded == [b"first", b"other"]


def test_an_answer_to_sql_says_that_the_trace_has_changed(two, open_page):
    first, other = two
    test = open_page([first], "sql")
    test.text_area(key="sql_editor").set_value("SELECT name FROM runs")
    test.button(key="sql_run").click().run()
    says = "was written to or replaced since this query ran"
    assert says not in shown(test)
    moved(other, first)
    assert says in shown(test.run())
    test.button(key="sql_run").click().run()
    assert says not in shown(test)
    assert test.dataframe[0].value["name"].tolist() == ["other"]
