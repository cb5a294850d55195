"""Saved results: a metric's table kept in the trace it was computed from, for SQL and for later."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from store import database
from store.errors import TraceError

if TYPE_CHECKING:
    import pandas as pd

MOST_ROWS = 1_000_000


def save_result(
    trace: Any,
    run_id: int,
    metric: str,
    params: Mapping[str, Any],
    columns: Sequence[Mapping[str, str]],
    rows: Sequence[Mapping[str, Any]],
    definition: Mapping[str, str],
    basis: Mapping[str, Any] | None = None,
) -> int:
    """Writes the table into the trace and returns its number; the same metric, options and run before is replaced.

    columns: name, unit, description of each; rows: values by column name that JSON can hold; definition: question,
    formula, source; basis: what it rests on, by which one sees later whether it is out of date. TraceError for a
    directory of shards (it is not written to) and for a table too long to keep.
    """
    if trace.path.is_dir():
        raise TraceError(f"{trace.path}: a directory of shards is not written to; save into a .duckdb trace")
    if len(rows) > MOST_ROWS:
        raise TraceError(f"{len(rows):,} rows are too many to save (at most {MOST_ROWS:,}): narrow the question")
    spelled = json.dumps(dict(params), ensure_ascii=False, sort_keys=True, default=str)
    with database.writing(trace.path, trace.wait) as con:
        _forget(con, run_id, metric, spelled)
        number = int(con.execute("SELECT coalesce(max(result_id), 0) + 1 FROM raw.results").fetchall()[0][0])
        told = [definition.get(name, "") for name in ("question", "formula", "source")]
        con.execute(
            "INSERT INTO raw.results VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [number, run_id, metric, spelled, database.now(), *told, len(rows)],
        )
        named = [(number, i, c["name"], c["unit"], c["description"]) for i, c in enumerate(columns)]
        con.executemany("INSERT INTO raw.result_columns VALUES (?, ?, ?, ?, ?)", named)
        if basis is not None:
            con.execute("INSERT INTO raw.result_bases VALUES (?, ?)", [number, json.dumps(dict(basis))])
        _insert_rows(con, number, rows)
    return number


def saved_results(trace: Any, run_id: int, metric: str) -> list[dict[str, Any]]:
    """result_id, params (a dict), created_at (UTC) and basis of the tables saved of a metric over a run, newest first.

    basis: as it was saved; None for a table that was saved without.
    """
    sql = (
        "SELECT result_id, r.params::VARCHAR, r.created_at, b.basis::VARCHAR "
        "FROM raw.results r LEFT JOIN raw.result_bases b USING (result_id) WHERE r.run_id = ? AND r.metric = ?"
    )
    rows = trace.ask(lambda con: con.execute(f"{sql} ORDER BY 3 DESC, 1 DESC", [run_id, metric]).fetchall())
    return [
        {"result_id": n, "params": json.loads(params), "created_at": at, "basis": basis and json.loads(basis)}
        for n, params, at, basis in rows
    ]


def saved_table(trace: Any, result_id: int) -> pd.DataFrame:
    """The rows of a saved table, its columns in their order; what is undefined is NaN."""
    import pandas as pd

    names = "SELECT name FROM result_columns WHERE result_id = ? ORDER BY place"
    rows = "SELECT data::VARCHAR FROM result_rows WHERE result_id = ? ORDER BY row_number"
    columns, data = trace.ask(lambda con: [con.execute(sql, [result_id]).fetchall() for sql in (names, rows)])
    return pd.DataFrame([json.loads(text) for (text,) in data], columns=[name for (name,) in columns])


def _forget(con: Any, run_id: int, metric: str, params: str) -> None:
    sql = "SELECT result_id FROM raw.results WHERE run_id = ? AND metric = ? AND params::VARCHAR = ?"
    for (old,) in con.execute(sql, [run_id, metric, params]).fetchall():
        for table in ("results", "result_columns", "result_rows", "result_bases"):
            con.execute(f"DELETE FROM raw.{table} WHERE result_id = ?", [old])  # noqa: S608 - our own table names


def _insert_rows(con: Any, number: int, rows: Sequence[Mapping[str, Any]]) -> None:
    import pyarrow as pa

    data = [json.dumps(dict(row), ensure_ascii=False, allow_nan=False) for row in rows]
    arriving = pa.table({"row_number": pa.array(range(len(rows)), pa.int64()), "data": pa.array(data, pa.string())})
    con.register("arriving", arriving)
    try:
        con.execute("INSERT INTO raw.result_rows SELECT ?, row_number, data::JSON FROM arriving", [number])
    finally:
        con.unregister("arriving")
