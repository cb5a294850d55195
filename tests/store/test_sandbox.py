"""People's SQL: what it may do, and everything it may not."""

import json
import os
import subprocess
import sys
import time

import duckdb
import pytest

from store import sandbox, sandbox_worker
from store.ask import run_on
from store.errors import TraceError
from store.sandbox import run_query

ALLOWED = {
    "SELECT count(*) AS n FROM routing": None,
    "select model from RUNS": 1,
    "FROM layers": 3,
    "TABLE layers": 3,
    "SELECT * FROM main.layers": 3,
    "WITH t AS (SELECT layer, sum(n_tokens) AS n FROM expert_stats GROUP BY 1) SELECT * FROM t ORDER BY n": 3,
    "WITH t AS MATERIALIZED (FROM layers), u AS (FROM t) SELECT * FROM u JOIN t USING (layer)": 3,
    "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 5) SELECT * FROM r": 5,
    "VALUES (1, 'a'), (2, 'b')": 2,
    "SELECT unnest([1, 2, 3])": 3,
    "SELECT * FROM range(4)": 4,
    "SELECT * FROM layers, unnest([1, 2])": 6,
    "SELECT 1 -- ; DROP TABLE runs": 1,
    "SELECT ';' AS x;": 1,
    "DESCRIBE routing": None,
    "SUMMARIZE layers": None,
    "DESCRIBE SELECT 1 AS x": 1,
    "EXPLAIN SELECT * FROM routing": None,
    "EXPLAIN ANALYZE SELECT count(*) FROM routing": None,
    "SELECT layer FROM layers INTERSECT SELECT layer FROM routing": 3,
    "SELECT * FROM (PIVOT assignments ON rank IN (1, 2) USING count(*) GROUP BY layer)": 3,
    "SELECT * FROM json_each('{\"a\": 1}')": 1,
    "SELECT (SELECT max(layer) FROM layers) AS m, now() AS t, 'x'::BLOB AS b": 1,
}

REFUSED = [
    # files, through functions and as tables
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_blob('/etc/passwd')",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_csv_auto('/etc/passwd')",
    "SELECT * FROM read_json('/etc/passwd')",
    "SELECT * FROM read_parquet('/tmp/x.parquet')",
    "SELECT * FROM parquet_metadata('/tmp/x.parquet')",
    "SELECT * FROM read_duckdb('/tmp/x.duckdb')",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM glob('/etc/*')",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM 'https://example.com/x.csv'",
    'SELECT * FROM "/tmp/x.parquet"',
    "SELECT (SELECT content FROM read_text('/etc/passwd'))",
    "SELECT * FROM layers WHERE module IN (SELECT content FROM read_text('/etc/passwd'))",
    "WITH t AS (SELECT * FROM read_text('/etc/passwd')) SELECT * FROM t",
    "SELECT * FROM layers UNION ALL SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM layers, LATERAL (SELECT * FROM read_text('/etc/passwd'))",
    "EXPLAIN ANALYZE SELECT * FROM read_text('/etc/passwd')",
    "DESCRIBE SELECT * FROM read_text('/etc/passwd')",
    "SUMMARIZE SELECT * FROM read_text('/etc/passwd')",
    "COPY runs TO '/tmp/stolen.csv'",
    "COPY (SELECT 1) TO '/tmp/stolen.parquet'",
    "COPY raw.runs FROM '/etc/passwd'",
    "EXPORT DATABASE '/tmp/stolen'",
    "IMPORT DATABASE '/tmp/stolen'",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '/tmp/stolen.csv'",
    # other databases, extensions, secrets
    "ATTACH '/tmp/other.duckdb' AS other",
    "ATTACH ':memory:' AS m",
    "DETACH trace",
    "USE memory",
    "INSTALL httpfs",
    "LOAD httpfs",
    "FORCE INSTALL httpfs FROM 'http://example.com'",
    "CREATE SECRET s (TYPE s3)",
    "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM which_secret('s3://x', 's3')",
    # settings, state, the process
    "SET memory_limit = '100GB'",
    "SET GLOBAL enable_external_access = true",
    "RESET lock_configuration",
    "PRAGMA database_list",
    "PRAGMA memory_limit = '100GB'",
    "CALL pragma_version()",
    "SELECT * FROM duckdb_settings()",
    "SELECT current_setting('memory_limit')",
    "SELECT getenv('HOME')",
    "SELECT * FROM duckdb_logs",
    "SELECT * FROM enable_logging()",
    "SELECT write_log('x')",
    "SELECT sleep_ms(100000)",
    "SELECT * FROM pragma_storage_info('raw.routing')",
    "SELECT * FROM query('SELECT 1')",
    "SELECT * FROM query_table('raw.runs')",
    "SELECT * FROM json_execute_serialized_sql('{}')",
    "SELECT * FROM arrow_scan(1, 2, 3)",
    "SELECT * FROM python_map_function()",
    "SELECT * FROM test_all_types()",
    "SHOW TABLES",
    "SHOW ALL TABLES",
    "SHOW DATABASES",
    # writing
    "CREATE TABLE t (i INT)",
    "CREATE TEMP TABLE t AS SELECT 1",
    "CREATE VIEW v AS SELECT 1",
    "CREATE MACRO m(x) AS x + 1",
    "CREATE TEMP MACRO layers() AS TABLE SELECT * FROM read_text('/etc/passwd')",
    "CREATE SEQUENCE s",
    "INSERT INTO raw.runs (run_id) VALUES (9)",
    "UPDATE raw.runs SET name = 'x'",
    "DELETE FROM raw.runs",
    "WITH d AS (DELETE FROM raw.runs RETURNING *) SELECT * FROM d",
    "DROP VIEW runs",
    "ALTER TABLE raw.runs ADD COLUMN x INT",
    "TRUNCATE raw.runs",
    "VACUUM",
    "CHECKPOINT",
    "BEGIN",
    "PREPARE p AS SELECT 1",
    "EXECUTE p",
    "PIVOT assignments ON rank USING count(*)",
    # what lies underneath, and other catalogs
    "SELECT * FROM raw.runs",
    'SELECT * FROM "raw"."runs"',
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM pg_catalog.pg_class",
    "SELECT * FROM sqlite_master",
    "SELECT * FROM duckdb_tables()",
    "SELECT * FROM system.main.duckdb_views",
    "SELECT * FROM temp.layers",
    "DESCRIBE raw.runs",
    "SUMMARIZE raw.routing",
    "WITH runs AS (SELECT 1) SELECT * FROM raw.runs",
    # more than one, or none
    "SELECT 1; SELECT 2",
    "SELECT 1; DROP TABLE raw.runs",
    "EXPLAIN SELECT 1; DROP TABLE raw.runs",
    "",
    ";;",
    "-- nothing",
    "SELEC 1",
    "SELECT $1",
    "SELECT \x00",
]


@pytest.fixture(scope="module")
def locked(made_trace):
    """A connection as the worker has it, without the process around it."""
    request = {"path": str(made_trace), "memory": 1 << 30, "wait": 1}
    con = sandbox_worker.connect(duckdb, request)
    yield con
    con.close()


@pytest.fixture(scope="module")
def views(locked):
    return {name for (name,) in locked.execute(sandbox_worker.VIEWS).fetchall()}


def run_here(con, views, sql):
    """Gate and query, as the worker does it, in this process."""
    text = sandbox_worker.check(duckdb, con, sql, views)
    return con.sql(text).limit(100).to_arrow_table().to_pylist()


@pytest.mark.parametrize("sql", ALLOWED)
def test_allowed(locked, views, sql):
    rows = run_here(locked, views, sql)
    assert len(rows) == ALLOWED[sql] if ALLOWED[sql] else rows


@pytest.mark.parametrize("sql", REFUSED)
def test_refused(locked, views, sql):
    with pytest.raises((sandbox_worker.Refused, duckdb.Error)) as caught:
        run_here(locked, views, sql)
    request = {"timeout": 1, "memory": 1 << 30}
    message = (
        str(caught.value)
        if isinstance(caught.value, sandbox_worker.Refused)
        else sandbox_worker.one_line(caught.value, request)
    )
    assert message
    assert "\n" not in message


OUTSIDE = [
    sql for sql in REFUSED if "/etc/" in sql or "/tmp/" in sql or "httpfs" in sql or sql.startswith(("SET", "RESET"))
]


@pytest.mark.parametrize("sql", OUTSIDE)
def test_without_the_gate_duckdb_itself_refuses(locked, sql):
    """Two walls: what gets past the reading of the statement meets the locked settings."""
    with pytest.raises(duckdb.Error):
        locked.execute(sql).fetchall()
    assert not os.path.exists("/tmp/stolen.csv")


def test_the_whole_way(made_trace):
    result = run_query(made_trace, "SELECT layer, num_experts FROM layers ORDER BY layer DESC", limit=2)
    assert result.columns == ["layer", "num_experts"]
    assert result.types == ["SMALLINT", "INTEGER"]
    assert result.rows.to_pylist() == [{"layer": 4, "num_experts": 8}, {"layer": 2, "num_experts": 16}]
    assert result.truncated
    assert not run_query(made_trace, "SELECT 1 AS x").truncated


def test_no_rows_have_columns(made_trace):
    result = run_query(made_trace, "SELECT layer FROM layers WHERE layer > 99")
    assert (result.columns, result.rows.num_rows, result.truncated) == (["layer"], 0, False)


def refused(path, sql, words, **limits):
    with pytest.raises(TraceError, match=words) as caught:
        run_query(path, sql, **limits)
    assert "\n" not in str(caught.value)


def test_a_wrong_name_gets_the_nearest_right_one(made_trace):
    refused(made_trace, "SELECT * FROM assignment", "did you mean 'assignments'")
    refused(made_trace, "SELECT expertz FROM assignments", 'Candidate bindings: "expert"')


def test_one_value_too_large_is_stopped(made_trace):
    started = time.monotonic()
    refused(made_trace, "SELECT repeat('a', 2000000000) AS x", "more memory than it may have", timeout=20)
    assert time.monotonic() - started < 20


def test_a_sort_too_large_is_stopped(made_trace):
    sql = "SELECT count(*) FROM (SELECT * FROM range(100000000) t(i) ORDER BY hash(i))"
    refused(made_trace, sql, "more memory|ran longer", memory=128 << 20, timeout=10)


def test_a_runaway_join_is_stopped_in_time(made_trace):
    started = time.monotonic()
    refused(made_trace, "SELECT count(*) FROM range(100000000) a, range(100000) b", "ran longer than 1 s", timeout=1)
    assert time.monotonic() - started < 15


def test_bytes_are_capped(made_trace):
    result = run_query(made_trace, "SELECT repeat('x', 1000) AS x FROM range(5000)", limit=5000, max_bytes=1 << 20)
    assert result.truncated
    assert 0 < result.rows.nbytes <= 1 << 20


def test_deep_statements_do_no_harm(made_trace):
    deep = "SELECT " + "(" * 5000 + "1" + ")" * 5000
    with pytest.raises(TraceError):
        run_query(made_trace, deep)
    assert run_query(made_trace, "SELECT 1 AS x").rows.num_rows == 1


def test_the_worker_sees_no_environment_and_writes_no_file(made_trace, tmp_path):
    """Limits hold in the process that runs the query."""
    probe = (
        "import os, json, resource, runpy, sys\n"
        f"worker = runpy.run_path({str(sandbox.WORKER)!r})\n"
        "worker['limit_process']({'memory': 1 << 28, 'timeout': 5})\n"
        "names = ('RLIMIT_FSIZE', 'RLIMIT_CORE', 'RLIMIT_NOFILE', 'RLIMIT_CPU', 'RLIMIT_AS')\n"
        "print(json.dumps({n: resource.getrlimit(getattr(resource, n))[0] for n in names}))\n"
        f"try: open({str(tmp_path / 'x')!r}, 'w').write('x' * 10)\n"
        "except OSError: pass\n"
    )
    import signal

    done = subprocess.run([sys.executable, "-I", "-c", probe], capture_output=True, text=True, check=False)
    limits = json.loads(done.stdout)
    assert limits["RLIMIT_FSIZE"] == limits["RLIMIT_CORE"] == 0
    assert limits["RLIMIT_NOFILE"] == 64
    assert 5 <= limits["RLIMIT_CPU"] <= 10
    assert limits["RLIMIT_AS"] < 4 << 30
    assert done.returncode in (0, -signal.SIGXFSZ)
    assert not (tmp_path / "x").exists() or (tmp_path / "x").stat().st_size == 0


@pytest.mark.parametrize("options", [{"limit": 0}, {"timeout": 0}, {"memory": 1}])
def test_limits_must_make_sense(made_trace, options):
    refused(made_trace, "SELECT 1", "limit must be", **options)


def test_what_is_no_trace_is_no_sandbox_either(tmp_path):
    with pytest.raises(TraceError, match="no such file"):
        run_on(tmp_path / "none.duckdb", "SELECT 1")


def test_a_question_mark_in_the_name_is_said(made_trace, tmp_path):
    """DuckDB would look for the log of 'a?b' under 'a.wal?b', which the sandbox may not open."""
    path = tmp_path / "what?.duckdb"
    path.write_bytes(made_trace.read_bytes())
    with pytest.raises(TraceError, match="question mark in its path"):
        run_query(path, "SELECT 1")
