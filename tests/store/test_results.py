"""Saved results: SQL reads what was computed, in the sandbox too; saving again replaces; nothing is half saved."""

import json

import pytest

from store import database
from store.errors import TraceError
from store.parquet import export_parquet, open_parquet
from store.results import MOST_ROWS, save_result
from store.sandbox import run_query
from store.trace import open_trace
from tests.store.made import write

COLUMNS = [
    {"name": "layer", "unit": "index", "description": "the layer"},
    {"name": "share", "unit": "share", "description": "it's a share; null where undefined"},
]
ROWS = [{"layer": 0, "share": 0.1 + 0.2}, {"layer": 1, "share": None}, {"layer": 2, "share": 1e-300}]
DEFINITION = {"question": "How much?", "formula": "a / b", "source": "arXiv 0000.00000"}


@pytest.fixture
def trace(tmp_path):
    write(tmp_path / "t.duckdb", batches=1)
    return open_trace(tmp_path / "t.duckdb")


def save(trace, rows=ROWS, **params):
    return save_result(trace, 1, "load", params, COLUMNS, rows, DEFINITION)


def test_sql_reads_what_was_saved(trace):
    number = save(trace, by="label")
    (row,) = trace.sql("SELECT * FROM results").to_dict("records")
    assert (row["result_id"], row["run_id"], row["metric"], row["n_rows"]) == (number, 1, "load", 3)
    assert json.loads(row["params"]) == {"by": "label"}
    assert {name: row[name] for name in DEFINITION} == DEFINITION
    columns = trace.sql("SELECT name, unit, description FROM result_columns ORDER BY place").to_dict("records")
    assert columns == COLUMNS
    rows = trace.sql("SELECT data FROM result_rows ORDER BY row_number")
    assert [json.loads(text) for text in rows.data] == ROWS


def test_the_sandbox_lets_people_read_it(trace):
    save(trace)
    sql = "SELECT metric, (data->>'layer')::INT AS layer, (data->>'share')::DOUBLE AS share FROM result_rows ORDER BY 2"
    assert run_query(trace.path, sql).rows.to_pylist() == [{"metric": "load", **row} for row in ROWS]
    assert run_query(trace.path, "SELECT formula FROM results").rows.to_pylist() == [{"formula": "a / b"}]
    with pytest.raises(TraceError):
        run_query(trace.path, "SELECT * FROM raw.result_rows")


def test_saving_again_replaces_and_other_options_do_not(trace):
    first = save(trace, by="label", ci=True)
    save(trace, by="token")
    again = save(trace, rows=ROWS[:1], ci=True, by="label")
    found = trace.sql("SELECT result_id, n_rows FROM results ORDER BY 1").to_dict("records")
    assert len(found) == 2
    assert first not in [row["result_id"] for row in found]
    assert trace.sql("SELECT count(*) AS n FROM result_rows WHERE result_id = ?", [again]).n[0] == 1
    assert trace.sql("SELECT count(*) AS n FROM raw.result_rows").n[0] == 4


def test_what_json_cannot_hold_leaves_nothing_behind(trace):
    with pytest.raises(ValueError, match="Out of range float"):
        save(trace, rows=[{"layer": 0, "share": float("nan")}])
    assert trace.sql("SELECT count(*) AS n FROM results").n[0] == 0


def test_an_old_trace_takes_results(tmp_path):
    path = tmp_path / "old.duckdb"
    con = database.connect(path, read_only=False)
    with database.transaction(con):
        for number, name in database.migrations()[:2]:
            con.execute((database.HERE / "migrations" / name).read_text())
            con.execute("INSERT INTO raw.migrations VALUES (?, ?, ?)", [number, name, database.now()])
    con.close()
    assert save(open_trace(path)) == 1


def test_results_travel_with_the_shards_which_take_none(trace, tmp_path):
    save(trace)
    shards = open_parquet(export_parquet(trace, tmp_path / "shards"))
    assert shards.sql("SELECT count(*) AS n FROM result_rows").n[0] == 3
    with pytest.raises(TraceError, match="not written to"):
        save(shards)


def test_too_many_rows_are_refused(trace):
    with pytest.raises(TraceError, match="too many to save"):
        save(trace, rows=range(MOST_ROWS + 1))
