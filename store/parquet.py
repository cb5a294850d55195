"""A trace as a directory of Parquet shards with a manifest: the form to share, and the same views over it.

A .duckdb file from a stranger is not safe to open (DuckDB trusts its files); Parquet shards are read through a manifest
that names every file with its hash, and are checked for schema and id ranges before anything else reads them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from store import database
from store.errors import TraceError
from store.trace import Trace

MANIFEST = "manifest.json"
FORMAT = "router-trace-parquet"
SHARD_ROWS = 2_000_000
BATCH_ROWS = 100_000
MANIFEST_LIMIT = 16 << 20
_NAME = re.compile(r"[a-z_]+-\d{5}\.parquet")
_TABLES_OF = (
    "SELECT table_name FROM duckdb_tables() WHERE database_name = ? AND schema_name = 'raw' ORDER BY table_name"
)
_COLUMNS_OF = (
    "SELECT column_name, data_type FROM duckdb_columns() WHERE database_name = 'trace' AND schema_name = 'raw' "
    "AND table_name = ? ORDER BY column_index"
)


def export_parquet(trace: Trace, folder: str | os.PathLike[str]) -> Path:
    """Write the whole trace into a new directory, whole or not at all; returns it."""
    where = Path(folder)
    if where.exists() and (not where.is_dir() or any(where.iterdir())):
        raise TraceError(f"{where}: exists and is not an empty folder")
    if not where.parent.is_dir():
        raise TraceError(f"{where}: no such directory: {where.parent}")
    making = where.with_name(f".{where.name}.{os.getpid()}.new")
    try:
        making.mkdir()
        entries = trace.ask(lambda con: [entry for table in _tables(con) for entry in _shards(con, table, making)])
        manifest = {"format": FORMAT, "schema": database.latest_version(), "files": entries}
        (making / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        os.replace(making, where)
    except OSError as error:
        raise TraceError(f"{where}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return where


def _tables(con: Any) -> list[str]:
    found = [name for (name,) in con.execute(_TABLES_OF, ["trace"]).fetchall()]
    return [name for name in found if name != "migrations"]


def _shards(con: Any, table: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Write one table; an entry of the manifest for each file."""
    import pyarrow.parquet as pq

    reader = con.sql(f"SELECT * FROM raw.{table}").to_arrow_reader(BATCH_ROWS)  # noqa: S608 - our own table names
    writer, rows, number = None, 0, 0
    for batch in reader:
        if writer is None:
            path = folder / f"{table}-{number:05d}.parquet"
            writer = pq.ParquetWriter(path, reader.schema, compression="zstd")
        writer.write_batch(batch)
        rows += batch.num_rows
        if rows >= SHARD_ROWS:
            writer.close()
            yield _entry(path, table, rows)
            writer, rows, number = None, 0, number + 1
    if writer is not None:
        writer.close()
        yield _entry(path, table, rows)


def _entry(path: Path, table: str, rows: int) -> dict[str, Any]:
    return {"path": path.name, "table": table, "rows": rows, "bytes": path.stat().st_size, "sha256": _hash(path)}


def _hash(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


class ParquetTrace(Trace):
    """A directory of shards behind the same views; checked once, then kept open in memory (it does not change)."""

    def __init__(self, path: Path):
        super().__init__(path)
        self._entries = read_manifest(path)
        self._con = _open(path, self._entries)

    @property
    def nbytes(self) -> int:
        return sum(entry["bytes"] for entry in self._entries)

    def ask(self, question: Any) -> Any:
        con = self._con.cursor()
        try:
            con.execute("USE trace")
            return question(con)
        except database.Error as error:
            raise database.explain(error, self.path) from error
        finally:
            con.close()

    def held(self) -> AbstractContextManager[None]:
        """Nothing to hold: the connection stays open."""
        return nullcontext()


_opened: dict[Path, tuple[list[tuple[Any, ...]], ParquetTrace]] = {}


def _state(folder: Path) -> list[tuple[Any, ...]]:
    """Which files lie in the folder, and when anything about each was changed last (a time that nobody can set)."""
    stats = [(file.name, file.stat()) for file in sorted(folder.iterdir()) if file.is_file()]
    return [(name, s.st_ino, s.st_mtime_ns, s.st_ctime_ns, s.st_size) for name, s in stats]


def open_parquet(path: Path) -> ParquetTrace:
    """The directory as a trace; hashes and ranges are checked the first time (and again when a file is replaced)."""
    where = path.resolve()
    manifest = where / MANIFEST
    if not manifest.is_file():
        raise TraceError(f"{path}: not a trace (a folder without {MANIFEST})")
    state = _state(where)
    if where not in _opened or _opened[where][0] != state:
        _opened[where] = (state, ParquetTrace(path))
    return _opened[where][1]


def read_manifest(folder: Path) -> list[dict[str, Any]]:
    """The files of the directory, each checked to be there, to lie in it and to have the hash it should."""
    manifest = folder / MANIFEST
    if manifest.stat().st_size > MANIFEST_LIMIT:
        raise TraceError(f"{manifest}: too large for a manifest")
    try:
        about = json.loads(manifest.read_text(encoding="utf-8"))
        known = about["format"] == FORMAT
        version, entries = int(about["schema"]), [_checked_entry(folder, entry) for entry in about["files"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise TraceError(f"{manifest}: not a manifest of a trace ({type(error).__name__}: {error})") from error
    if not known:
        raise TraceError(f"{manifest}: not a manifest of a trace (format {about['format']!r})")
    database.check_version(version, folder)
    return entries


def _checked_entry(folder: Path, entry: dict[str, Any]) -> dict[str, Any]:
    name, table = str(entry["path"]), str(entry["table"])
    path = folder / name
    if not _NAME.fullmatch(name) or not name.startswith(f"{table}-") or path.is_symlink():
        raise TraceError(f"{folder}: the manifest names {name!r}, which is not a shard of this folder")
    if not path.is_file():
        raise TraceError(f"{path}: missing, though the manifest names it")
    if path.stat().st_size != int(entry["bytes"]) or _hash(path) != entry["sha256"]:
        raise TraceError(f"{path}: changed or damaged (its hash is not the manifest's)")
    return {"path": str(path), "table": table, "rows": int(entry["rows"]), "bytes": int(entry["bytes"])}


def _open(folder: Path, entries: list[dict[str, Any]]) -> Any:
    con = database.memory()
    try:
        for table, columns in _expected(con).items():
            files = [entry["path"] for entry in entries if entry["table"] == table]
            if files:
                _check_schema(files, table, columns)
                con.execute(f"DROP TABLE raw.{table}")
                con.execute(_view_over(table, columns, files))
        unknown = {e["table"] for e in entries} - set(_expected_names(con))
        if unknown:
            raise TraceError(f"{folder}: the manifest names a table {sorted(unknown)[0]!r} that a trace does not have")
        con.execute(database.views_sql())
        check_ranges(con, folder)
    except database.Error as error:
        con.close()
        raise database.explain(error, folder) from error
    return con


def _expected(con: Any) -> dict[str, dict[str, str]]:
    return {name: dict(con.execute(_COLUMNS_OF, [name]).fetchall()) for name in _tables(con)}


def _expected_names(con: Any) -> set[str]:
    query = "SELECT table_name FROM duckdb_columns() WHERE database_name = 'trace' AND schema_name = 'raw'"
    return {name for (name,) in con.execute(query).fetchall()}


def _check_schema(files: list[str], table: str, columns: dict[str, str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for file in files:
        try:
            names = pq.read_schema(file).names
        except (pa.ArrowInvalid, OSError) as error:
            raise TraceError(f"{file}: not a Parquet file ({error})") from error
        strange = [name for name in names if name not in columns]
        if strange:
            raise TraceError(f"{file}: {table} has no column {strange[0]!r}")


def _view_over(table: str, columns: dict[str, str], files: list[str]) -> str:
    """raw.<table> over the files; a column that an older export lacks is NULL. Casts hold the types to the schema's."""
    import pyarrow.parquet as pq

    there = set(pq.read_schema(files[0]).names)
    picked = ", ".join(
        f"CAST({name if name in there else 'NULL'} AS {kind}) AS {name}" for name, kind in columns.items()
    )
    listed = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
    return f"CREATE VIEW raw.{table} AS SELECT {picked} FROM read_parquet([{listed}])"  # noqa: S608 - quoted above


RANGES = {
    "an expert id is not below its layer's num_experts": (
        "SELECT 1 FROM raw.routing r LEFT JOIN raw.layers l USING (run_id, layer) "
        "WHERE r.experts IS NOT NULL AND (l.num_experts IS NULL OR list_max(r.experts) >= l.num_experts "
        "OR len(r.experts) > coalesce(l.slots, l.top_k)) LIMIT 1"
    ),
    "weights and experts of a row differ in number": (
        "SELECT 1 FROM raw.routing WHERE len(weights) != len(experts) OR len(output_norms) != len(experts) "
        "OR len(output_absmaxes) != len(experts) LIMIT 1"
    ),
    "logits of a row are not one per expert": (
        "SELECT 1 FROM raw.routing r JOIN raw.layers l USING (run_id, layer) "
        "WHERE len(r.logits) != l.num_experts "
        "OR coalesce(len(r.logits_32), len(r.logits_16)) != (l.num_experts + 1) // 2 LIMIT 1"
    ),
    "a position, sequence or token id is negative": (
        "SELECT 1 FROM raw.tokens WHERE position < 0 OR sequence_id < 0 OR token_id < 0 OR predicted_id < 0 LIMIT 1"
    ),
    "a run, layer or sequence is there twice": (
        "SELECT 1 FROM (SELECT run_id FROM raw.runs GROUP BY ALL HAVING count(*) > 1 UNION ALL "
        "SELECT run_id FROM raw.layers GROUP BY run_id, layer HAVING count(*) > 1 UNION ALL "
        "SELECT run_id FROM raw.sequences GROUP BY run_id, sequence_id HAVING count(*) > 1) LIMIT 1"
    ),
    "rows belong to a run that is not in it": (
        "SELECT 1 FROM (SELECT DISTINCT run_id FROM raw.routing UNION SELECT DISTINCT run_id FROM raw.tokens) "
        "WHERE run_id NOT IN (SELECT run_id FROM raw.runs) LIMIT 1"
    ),
    "aggregates are not one per expert": (
        "SELECT 1 FROM raw.aggregates a LEFT JOIN raw.layers l USING (run_id, layer) "
        "WHERE l.num_experts IS NULL OR len(a.chosen) != l.num_experts LIMIT 1"
    ),
}


def check_ranges(con: Any, folder: Path) -> None:
    """TraceError when what the shards hold cannot be a trace."""
    for wrong, query in RANGES.items():
        if con.execute(query).fetchall():
            raise TraceError(f"{folder}: {wrong}")


def import_parquet(folder: str | os.PathLike[str], out: str | os.PathLike[str]) -> Path:
    """The directory as a new .duckdb trace."""
    source, where = open_parquet(Path(folder)), Path(out)
    if where.exists():
        raise TraceError(f"{where}: exists already")
    database.create_file(where)
    try:
        source.ask(lambda con: _copy(con, where))
    except BaseException:
        database.remove(where)
        raise
    return where


def _copy(con: Any, out: Path) -> None:
    con.execute(f"ATTACH '{str(out).replace(chr(39), chr(39) * 2)}' AS copied (ROW_GROUP_SIZE {database.ROW_GROUP})")
    try:
        names = [name for (name,) in con.execute(_TABLES_OF, ["copied"]).fetchall() if name != "migrations"]
        for name in names:
            con.execute(f"INSERT INTO copied.raw.{name} BY NAME SELECT * FROM trace.raw.{name}")  # noqa: S608
    finally:
        con.execute("DETACH copied")
