"""People's SQL over a trace: any single SELECT over the views, run in a process of its own (see sandbox_worker)."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from store.errors import TraceError

WORKER = Path(__file__).with_name("sandbox_worker.py")
LIMIT = 1000
TIMEOUT = 30.0
MEMORY = 1 << 30
MAX_BYTES = 256 << 20
WAIT = 60.0
_KILLED = {-9: "killed", -6: "aborted", -11: "crashed", -24: "out of CPU time"}


@dataclass(frozen=True)
class Result:
    """Rows of a query: `rows` is an Arrow table, `types` DuckDB's names, `truncated` whether rows were cut off."""

    columns: list[str]
    types: list[str]
    rows: Any
    truncated: bool


def run_query(
    path: str | os.PathLike[str],
    sql: str,
    *,
    limit: int = LIMIT,
    timeout: float = TIMEOUT,
    memory: int = MEMORY,
    max_bytes: int = MAX_BYTES,
    wait: float = WAIT,
) -> Result:
    """Run one SELECT (WITH, EXPLAIN, DESCRIBE, SUMMARIZE) over the views of the trace at `path`.

    At most `limit` rows and `max_bytes` bytes come back; the query gets `timeout` seconds and `memory` bytes; `wait` is
    how long to wait while a recording writes. TraceError, in one line, for anything refused or gone wrong.
    """
    if limit < 1 or timeout <= 0 or memory < 64 << 20:
        raise TraceError("limit must be at least 1, timeout more than 0, memory at least 64 MiB")
    where = Path(path).resolve()
    if not where.is_file():
        raise TraceError(f"{path}: no such file")
    if "?" in str(where):
        # DuckDB reads what follows as options and looks for the log under another name, which is then forbidden to it.
        raise TraceError(f"{path}: SQL cannot be asked of a file with a question mark in its path; rename it")
    request = {"path": str(where), "sql": sql, "limit": limit, "timeout": timeout, "memory": memory}
    output = _ask({**request, "max_bytes": max_bytes, "wait": wait}, timeout + wait + 15)
    return _read(output)


def _ask(request: dict[str, Any], patience: float) -> bytes:
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(WORKER)],
            input=json.dumps(request).encode(),
            capture_output=True,
            timeout=patience,
            env={"PATH": os.defpath, "LANG": "C.UTF-8", "ARROW_DEFAULT_MEMORY_POOL": "system"},
            cwd="/",
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise TraceError(f"the query did not stop after {request['timeout']:g} s and was killed") from error
    if done.returncode == 0:
        return done.stdout
    reason = _KILLED.get(done.returncode, f"exit code {done.returncode}")
    if done.returncode in (-6, -11) or b"MemoryError" in done.stderr or b"bad_alloc" in done.stderr:
        raise TraceError(f"the query needs more memory than it may have ({request['memory'] >> 20} MiB) ({reason})")
    raise TraceError(f"the query was stopped: {reason}")


def _read(output: bytes) -> Result:
    import pyarrow as pa

    head, _, body = output.partition(b"\n")
    words = json.loads(head)
    if "error" in words:
        raise TraceError(words["error"])
    rows = pa.ipc.open_stream(io.BytesIO(body)).read_all()
    return Result(words["columns"], words["types"], rows, words["truncated"])
