"""The process people's SQL runs in: one SELECT over the views, and nothing else. Started by store.sandbox.

Layers, each enough for most attacks: a gate that reads the parsed statement and lets only the views and a list of
harmless functions through; DuckDB read-only with files, network, extensions and settings locked; limits on memory, CPU
time, open and written files; an interrupt when the time is up (and the parent kills what does not stop).

Reads one JSON object from stdin; writes one line of JSON to stdout, then the rows as an Arrow IPC stream.
"""

from __future__ import annotations

import difflib
import json
import os
import random
import re
import resource
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

TABLE_FUNCTIONS = {"unnest", "range", "generate_series", "json_each", "json_tree"}
# Scalar functions that tell about or touch what is not the trace; the rest only computes.
BARRED = {
    *("getenv", "current_setting", "getvariable", "nextval", "currval", "setseed", "write_log", "sleep_ms"),
    *(
        "current_query",
        "current_query_id",
        "current_database",
        "current_schemas",
        "current_user",
        "user",
        "session_user",
    ),
    *(
        "pg_get_viewdef",
        "txid_current",
        "parse_duckdb_log_message",
        "json_serialize_plan",
        "json_execute_serialized_sql",
    ),
}
SETTINGS = {
    "access_mode": "READ_ONLY",
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "allow_unsigned_extensions": "false",
    "python_enable_replacements": "false",
    "python_scan_all_frames": "false",
    "temp_directory": "",
    "threads": "1",
    "lock_configuration": "true",
}
VIEWS = "SELECT view_name FROM duckdb_views() WHERE schema_name = 'main' AND NOT internal"
_EXPLAIN = re.compile(r"\s*EXPLAIN\s+(ANALYZE\s+)?(\(\s*[\w\s,]*\)\s*)?", re.IGNORECASE)


class Refused(Exception):
    """What the person is told, in one line."""


def main() -> int:
    request = json.load(sys.stdin)
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing else may write into the answer
    try:
        answer(request, out)
    except Refused as error:
        _tell(out, error=str(error))
    except MemoryError:
        _tell(out, error=f"the query needs more memory than it may have ({request['memory'] >> 20} MiB)")
    except Exception as error:  # noqa: BLE001 - whatever DuckDB says becomes one line
        _tell(out, error=one_line(error, request))
    out.flush()
    return 0


def answer(request: dict[str, Any], out: Any) -> None:
    import duckdb
    import pyarrow as pa

    con = connect(duckdb, request)
    views = {name for (name,) in con.execute(VIEWS).fetchall()}
    sql = check(duckdb, con, request["sql"], views)
    limit_process(request)
    timer = threading.Timer(request["timeout"], con.interrupt)
    timer.daemon = True
    timer.start()
    types, batches, truncated = run(con, pa, sql, request)
    schema = batches[0].schema
    _tell(out, columns=schema.names, types=types, truncated=truncated, rows=sum(b.num_rows for b in batches))
    with pa.ipc.new_stream(out, schema) as stream:
        for batch in batches:
            stream.write_batch(batch)


def connect(duckdb: Any, request: dict[str, Any]) -> Any:
    """Read-only and locked down; waits while a recording has the file."""
    settings = {**SETTINGS, "memory_limit": f"{request['memory'] // 2 >> 20}MiB"}
    deadline = time.monotonic() + request["wait"]
    while True:
        try:
            return duckdb.connect(request["path"], read_only=True, config=settings)
        except duckdb.IOException as error:
            if "lock" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(random.uniform(0.01, 0.1))  # noqa: S311 - jitter, not a secret


def check(duckdb: Any, con: Any, sql: str, views: set[str]) -> str:
    """The statement, when it is one SELECT (or EXPLAIN of one) over the views; Refused otherwise."""
    try:
        statements = con.extract_statements(sql)
    except duckdb.Error as error:
        raise Refused(" ".join(str(error).split("\n\n")[0].split())) from error
    if len(statements) != 1:
        raise Refused(f"exactly one statement, please ({len(statements)} given)")
    kind, text = statements[0].type, statements[0].query
    if kind == duckdb.StatementType.EXPLAIN:
        inner = _EXPLAIN.sub("", text, count=1)
        if inner == text:
            raise Refused("EXPLAIN must stand first")
        check(duckdb, con, inner, views)
    elif kind != duckdb.StatementType.SELECT:
        raise Refused(f"only SELECT, WITH, EXPLAIN, DESCRIBE and SUMMARIZE are allowed, not {kind.name}")
    else:
        _check_tree(con, text, views)
    return text


def _check_tree(con: Any, text: str, views: set[str]) -> None:
    parsed = json.loads(con.execute("SELECT json_serialize_sql(?)", [text]).fetchall()[0][0])
    if parsed.get("error"):
        raise Refused(parsed.get("error_message") or "this statement cannot be checked, and so is not allowed")
    nodes = list(_nodes(parsed))
    named = {entry["key"].lower() for node in nodes if "cte_map" in node for entry in node["cte_map"].get("map", [])}
    named |= {str(node["cte_name"]).lower() for node in nodes if "cte_name" in node}
    for node in nodes:
        _check_node(node, views, named)


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every object of the tree (a list of work, not recursion: a hostile statement may be deep)."""
    waiting = [tree]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            yield item
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)


def _check_node(node: dict[str, Any], views: set[str], named: set[str]) -> None:
    kind = node.get("type")
    if kind == "BASE_TABLE":
        _check_table(node, views, named)
    elif kind == "TABLE_FUNCTION":
        name = str(node.get("function", {}).get("function_name", "")).lower()
        if name not in TABLE_FUNCTIONS:
            raise Refused(f"the table function {name!r} is not allowed; only the views can be read")
    elif kind == "SHOW_REF" and (node.get("table_name") or node.get("show_type") not in ("DESCRIBE", "SUMMARY")):
        raise Refused(f"only DESCRIBE and SUMMARIZE of a view are allowed; the views are {', '.join(sorted(views))}")
    elif "function_name" in node and str(node["function_name"]).lower() in BARRED:
        raise Refused(f"the function {node['function_name']!r} is not allowed")


def _check_table(node: dict[str, Any], views: set[str], named: set[str]) -> None:
    name = str(node.get("table_name", "")).lower()
    path = [str(part).strip('"').lower() for part in node.get("qualified_name", {}).get("path", [])]
    schema = str(node.get("schema_name") or (path[-2] if len(path) > 1 else "")).lower()
    bare = not schema and not node.get("catalog_name") and len(path) <= 1
    if (bare and name in named) or (schema in ("", "main") and len(path) <= 2 and name in views):
        return
    near = difflib.get_close_matches(name, [*views, *named], n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near and schema in ("", "main") else f"there are: {', '.join(sorted(views))}"
    raise Refused(f"there is no view {'.'.join(path) or name!r}; {hint}")


def limit_process(request: dict[str, Any]) -> None:
    """Memory beyond what is in use now, CPU time, no file to write, no core dump."""
    with open("/proc/self/statm") as f:
        used = int(f.read().split()[0]) * resource.getpagesize()
    _limit(resource.RLIMIT_AS, used + request["memory"])
    _limit(resource.RLIMIT_CPU, int(time.process_time() + request["timeout"]) + 2)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, 64)


def _limit(which: int, value: int) -> None:
    hard = resource.getrlimit(which)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def run(con: Any, pa: Any, sql: str, request: dict[str, Any]) -> tuple[list[str], list[Any], bool]:
    """Types, record batches and whether rows or bytes were cut."""
    relation = con.sql(sql)
    types = [str(t) for t in relation.types]
    reader = relation.limit(request["limit"] + 1).to_arrow_reader(2048)
    batches, rows, size, truncated = [], 0, 0, False
    for batch in reader:
        room = request["limit"] - rows
        truncated = batch.num_rows > room or size + batch.nbytes > request["max_bytes"]
        if size + batch.nbytes > request["max_bytes"]:
            room = min(room, batch.num_rows * (request["max_bytes"] - size) // max(1, batch.nbytes))
        batches.append(batch.slice(0, room))
        rows, size = rows + batches[-1].num_rows, size + batch.nbytes
        if truncated:
            break
    return types, batches or [pa.RecordBatch.from_pylist([], schema=reader.schema)], truncated


def one_line(error: Exception, request: dict[str, Any]) -> str:
    """DuckDB's message without its drawing of the statement."""
    text = " ".join(re.split(r"\n\s*LINE \d+:", str(error))[0].split())
    low = text.lower()
    if "interrupt" in low:
        return f"the query ran longer than {request['timeout']:g} s and was stopped"
    if "out of memory" in low or "bad_alloc" in low or "failed to allocate" in low or "bad allocation" in low:
        return f"the query needs more memory than it may have ({request['memory'] >> 20} MiB)"
    return text or type(error).__name__


def _tell(out: Any, **words: Any) -> None:
    out.write(json.dumps(words).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main())
