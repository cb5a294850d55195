"""Several questions on one connection."""

import pytest

from store import database
from store.errors import TraceError
from store.parquet import export_parquet
from store.trace import open_trace
from tests.store.made import write


def test_one_opening_serves_all_questions_inside(tmp_path, monkeypatch):
    write(tmp_path / "t.duckdb", batches=1)
    trace, opened = open_trace(tmp_path / "t.duckdb"), []
    attach = database._attach
    monkeypatch.setattr(database, "_attach", lambda *a: (opened.append(a[1]), attach(*a)))
    with trace.held(), trace.held():
        inside = (trace.run(), trace.label_names(), len(trace.layers()), trace.aggregates()["count"].sum())
    assert len(opened) == 1
    assert inside[1:] == (trace.label_names(), len(trace.layers()), trace.aggregates()["count"].sum())
    assert len(opened) > 3


def test_after_an_error_the_next_question_opens_the_file_again(tmp_path):
    write(tmp_path / "t.duckdb", batches=1)
    trace = open_trace(tmp_path / "t.duckdb")
    with pytest.raises(TraceError, match="no run 7"), trace.held():
        trace.run(7)
    assert trace.run()["run_id"] == 1


def test_only_what_is_wanted_is_read(tmp_path):
    write(tmp_path / "t.duckdb", batches=1)
    whole = open_trace(tmp_path / "t.duckdb").aggregates()
    few = open_trace(tmp_path / "t.duckdb").aggregates(names=("tokens", "count"))
    assert set(few) == {"layers", "num_experts", "top_k", "label_names", "tokens", "count"}
    assert (few["count"] == whole["count"]).all()
    assert (few["tokens"] == whole["tokens"]).all()


def test_shards_need_no_holding(made_trace, tmp_path):
    trace = open_trace(export_parquet(open_trace(made_trace), tmp_path / "shards"))
    with trace.held():
        assert trace.run()["run_id"] == 1
