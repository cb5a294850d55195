"""People's SQL over either form of a trace."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from store.sandbox import Result, run_query
from store.trace import open_trace


def run_on(path: str | os.PathLike[str], sql: str, **limits: Any) -> Result:
    """`sandbox.run_query` over a .duckdb file or a directory of Parquet shards.

    The sandbox opens nothing but one database file, so shards are copied into a temporary one first.
    """
    where = Path(path)
    open_trace(where)
    if not where.is_dir():
        return run_query(where, sql, **limits)
    from store.parquet import import_parquet

    with tempfile.TemporaryDirectory() as folder:
        return run_query(import_parquet(where, Path(folder) / "trace.duckdb"), sql, **limits)
