"""The schema: the views DESIGN promises, a comment on everything, and migrations that end where a new file begins."""

import re

import duckdb
import pytest

from store import database
from store.errors import TraceError
from store.trace import open_trace
from store.writer import TraceWriter
from tests.store.made import RUN, Plan, make_batch, write

PROMISED = {
    "runs": "run_id name created_at model revision status num_layers num_experts top_k n_sequences n_tokens "
    "intervention baseline_run_id provenance",
    "layers": "run_id layer module is_moe num_experts top_k gating shared_experts",
    "sequences": "run_id sequence_id label source text n_tokens metadata",
    "tokens": "run_id sequence_id position token_id token phase logprob predicted_id",
    "routing": "run_id sequence_id position layer experts weights entropy margin output_norms missing_reason",
    "assignments": "run_id sequence_id position layer rank expert weight output_norm output_absmax",
    "router_logits": "run_id sequence_id position layer expert logit probability chosen",
    "expert_stats": "run_id layer expert label n_tokens sum_weight sum_norm max_abs_output max_abs_input",
}
EVERYTHING = {
    "columns": "SELECT schema_name, table_name, column_name, data_type, comment FROM duckdb_columns() "
    "WHERE database_name = 'trace' AND NOT internal ORDER BY schema_name, table_name, column_index",
    "tables": "SELECT schema_name, table_name, comment FROM duckdb_tables() WHERE database_name = 'trace' ORDER BY ALL",
    "views": "SELECT schema_name, view_name, comment, sql FROM duckdb_views() "
    "WHERE database_name = 'trace' AND NOT internal ORDER BY ALL",
    "macros": "SELECT schema_name, function_name, parameters, macro_definition, comment FROM duckdb_functions() "
    "WHERE database_name = 'trace' AND NOT internal ORDER BY ALL",
    "migrations": "SELECT version, name FROM raw.migrations ORDER BY ALL",
}


def schema_of(path):
    return {
        name: database.read(path, lambda con, q=query: con.execute(q).fetchall()) for name, query in EVERYTHING.items()
    }


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    path = tmp_path_factory.mktemp("schema") / "fresh.duckdb"
    database.create_file(path)
    return schema_of(path)


def old_file(path, version=1):
    """A file as the program of that schema version made it."""
    con = database.connect(path, read_only=False)
    with database.transaction(con):
        for number, name in database.migrations()[:version]:
            con.execute((database.HERE / "migrations" / name).read_text())
            con.execute("INSERT INTO raw.migrations VALUES (?, ?, ?)", [number, name, database.now()])
    con.close()
    return path


@pytest.mark.parametrize("view", PROMISED)
def test_promised_views_and_columns_are_there(fresh, view):
    columns = {row[2] for row in fresh["columns"] if row[:2] == ("main", view)}
    assert set(PROMISED[view].split()) <= columns


def test_everything_has_a_comment(fresh):
    bare = [row[:3] for row in fresh["columns"] if not row[4]]
    bare += [row[:2] for kind in ("tables", "views") for row in fresh[kind] if not row[2]]
    bare += [row[:2] for row in fresh["macros"] if not row[4]]
    assert bare == []
    assert len(fresh["views"]) > 10


def test_an_old_file_migrated_equals_a_new_one(tmp_path, fresh):
    path = old_file(tmp_path / "old.duckdb")
    before = schema_of(path)
    assert before["tables"] != fresh["tables"]
    database.upgrade(path)
    assert schema_of(path) == fresh


def test_migrating_twice_changes_nothing(tmp_path, fresh):
    path = old_file(tmp_path / "old.duckdb")
    database.upgrade(path)
    database.upgrade(path)
    assert schema_of(path) == fresh


def test_rows_survive_a_migration(tmp_path):
    path = old_file(tmp_path / "old.duckdb")
    with database.writing(path) as con:
        con.execute("INSERT INTO raw.runs (run_id, name, model, status) VALUES (1, 'old', ?, 'complete')", [RUN.model])
    assert open_trace(path).run()["name"] == "old"
    with TraceWriter.create(path, RUN, Plan().infos) as writer:
        writer.write(make_batch(Plan(outputs=True), 0))
    assert open_trace(path).sql("SELECT count(*) AS n FROM output_vectors").n[0] > 0


def test_a_migration_that_fails_leaves_the_old_schema(tmp_path, monkeypatch):
    path = old_file(tmp_path / "old.duckdb")
    before = schema_of(path)
    (tmp_path / "migrations").mkdir()
    for _, name in database.migrations():
        text = (database.HERE / "migrations" / name).read_text()
        (tmp_path / "migrations" / name).write_text(
            text + ("SELECT * FROM nowhere;" if name.startswith("0002") else "")
        )
    monkeypatch.setattr(database, "HERE", tmp_path)
    with pytest.raises(TraceError, match="nowhere"):
        database.upgrade(path)
    assert schema_of(path) == before


def test_migrations_have_a_number_each():
    numbers = [number for number, _ in database.migrations()]
    assert numbers == sorted(set(numbers))


def test_a_step_that_came_later_is_made_up_for(tmp_path, fresh, monkeypatch):
    """A file made while a lower number was not there yet gets that step too."""
    steps = database.migrations()
    monkeypatch.setattr(database, "migrations", lambda: tuple(step for step in steps if step[0] != 4))
    path = old_file(tmp_path / "gap.duckdb", version=len(steps) - 1)
    database.upgrade(path)
    assert schema_of(path) != fresh
    monkeypatch.undo()
    database.upgrade(path)
    found = schema_of(path)
    assert {**found, "migrations": sorted(found["migrations"])} == fresh


def test_a_newer_schema_is_refused(tmp_path):
    path = tmp_path / "t.duckdb"
    write(path, batches=1)
    with duckdb.connect(str(path)) as con:
        con.execute("INSERT INTO raw.migrations VALUES (99, 'future', now()::TIMESTAMP)")
    with pytest.raises(TraceError, match=r"made by a newer version of this program \(schema 99"):
        open_trace(path)
    with pytest.raises(TraceError, match="made by a newer version"):
        TraceWriter.create(path, RUN, Plan().infos)


def test_names_in_the_schema_are_the_ones_in_the_comments():
    """A comment on a column that is not there would fail on creation; one pasted twice would be lost silently."""
    text = (database.HERE / "schema.sql").read_text()
    targets = re.findall(r"COMMENT ON (\w+ [\w.]+) IS", text)
    assert len(targets) == len(set(targets))
