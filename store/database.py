"""Opening the file: the lock, the schema's version, and what can be wrong, each said in one line.

DuckDB lets one process write and shuts every other one out meanwhile, and a reader shuts the writer out. So everybody
opens, writes or asks, and closes; whoever finds the file taken waits a little (with jitter, so that two who wait do not
keep meeting) and tries again.
"""

from __future__ import annotations

import gc
import os
import random
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import duckdb

from store.errors import TraceError
from store.gate import let_writers_pass, waiting_to_write

HERE = Path(__file__).parent
# One thread: recording shares the machine with a model. No extension is ever fetched, whatever a file looks like.
CONFIG: dict[str, Any] = {"threads": 1, "autoinstall_known_extensions": False, "autoload_known_extensions": False}
READ_WAIT = 60.0
START_WAIT = 60.0  # of what is only to be begun: nothing is lost when it is told early that the file is taken
WRITE_WAIT = 300.0  # of a recording that is under way
STRANGER_WAIT = 1.0  # for a connection of this process that is not ours: nobody but its owner will close it
TELL_AFTER = 2.0  # seconds of waiting after which somebody at a terminal is told what for
# A DuckDB row group is 122,880 rows unless told otherwise. At each checkpoint DuckDB merges neighbours that fit into
# one group less, which with a few groups per flush rewrote earlier flushes again and again (0.25 against 0.54 million
# rows/s, a fifth of the file holes). With small groups a flush is several full ones and a rest: nothing is merged.
ROW_GROUP = 20_480
BLOCK = 65_536  # a quarter of the default: a small trace is then 1.5 MB less, a large one no larger
_LOCKED = ("could not set lock", "conflicting lock", "different configuration", "already attached")
_FULL = ("no space left", "disk quota", "file too large", "could not write", "write failed", "out of disk")
Error = duckdb.Error
T = TypeVar("T")


@cache
def migrations() -> tuple[tuple[int, str], ...]:
    """(number, file name) of every migration, in order; the last number is the version this code writes."""
    files = sorted(p.name for p in (HERE / "migrations").glob("[0-9]*.sql"))
    return tuple((int(name.split("_")[0]), name) for name in files)


def latest_version() -> int:
    return migrations()[-1][0]


class _Holders:
    """Which files our own connections of this process have open, and in which threads.

    An attempt to open and the look at who has the file are one step: that another connection is not ours is then sure.
    """

    def __init__(self) -> None:
        self.guard = threading.RLock()
        self._threads: dict[str, list[int]] = {}

    def add(self, path: str) -> None:
        self._threads.setdefault(os.path.realpath(path), []).append(threading.get_ident())

    def remove(self, path: str, thread: int) -> None:
        self._threads.get(os.path.realpath(path), [thread]).remove(thread)

    def of(self, path: str) -> list[int]:
        """The threads that have it open."""
        return list(self._threads.get(os.path.realpath(path), ()))

    def forget(self) -> None:
        """In a child made by fork, whose connections these are not."""
        self.__init__()  # type: ignore[misc]


_holders = _Holders()


def connect(path: str | os.PathLike[str], read_only: bool = True, wait: float | None = None) -> Any:
    """A DuckDB connection to `path`, waiting up to `wait` seconds while another process has the file."""
    con = duckdb.connect(config=CONFIG)
    try:
        _attach(con, str(path), read_only, wait if wait is not None else READ_WAIT if read_only else WRITE_WAIT)
    except BaseException:
        con.close()
        raise
    return con


def _attach(
    con: Any, path: str, read_only: bool, wait: float, strangers: float = STRANGER_WAIT, ours: bool = False
) -> None:
    """Make the file the current database of `con`. ours: it is let go of by `_holding`.

    Attached, not opened: only ATTACH takes a row group size, and two readers in one process need not agree on settings.
    """
    options = ["TYPE duckdb", "READ_ONLY" if read_only else f"ROW_GROUP_SIZE {ROW_GROUP}"]
    if not read_only and not os.path.exists(path):
        options.append(f"BLOCK_SIZE {BLOCK}")
    quoted = path.replace("'", "''")
    waiting = _Waiting(path, wait, min(wait, strangers))

    def attach() -> None:
        con.execute(f"ATTACH '{quoted}' AS trace ({', '.join(options)})")
        if ours:
            _holders.add(path)

    with nullcontext() if read_only else waiting_to_write(path):
        _retry(attach, read_only, waiting)
    con.execute("USE trace")


def _retry(attach: Callable[[], None], read_only: bool, waiting: _Waiting) -> None:
    while True:
        if read_only:
            let_writers_pass(waiting.path)
        with _holders.guard:
            try:
                attach()
                return
            except duckdb.Error as error:
                if not is_lock(error):
                    raise explain(error, waiting.path) from error
                taken, threads = error, _holders.of(waiting.path)
        waiting.go_on(taken, threads)


class _Waiting:
    """Waiting for a file that is taken: how long for whom, and what is said about it."""

    def __init__(self, path: str, wait: float, strangers: float) -> None:
        self.path, self._wait, self._strangers = path, wait, strangers
        self._began, self._delay, self._told = time.monotonic(), 0.01, False
        self._stranger_since: float | None = None

    def go_on(self, error: Exception, ours: list[int]) -> None:
        """Sleep a little, or raise TraceError where waiting is of no use. ours: threads that have the file open."""
        now, here = time.monotonic(), "already attached" in str(error).lower()
        if here and threading.get_ident() in ours:
            raise TraceError(f"{self.path}: this thread has it open already; finish that first") from error
        if here and not ours:
            self._stranger(error, now)
        else:
            self._stranger_since = None
        if now > self._began + self._wait:
            raise TraceError(f"{self.path}: {_taken(error)}; try again") from error
        if now > self._began + TELL_AFTER and not self._told:
            self._told = True
            tell(f"{self.path}: {_taken(error)}; waiting for it, up to {self._wait:.0f} s")
        time.sleep(self._delay * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, not a secret
        self._delay = min(self._delay * 1.5, 0.05)

    def _stranger(self, error: Exception, now: float) -> None:
        if self._stranger_since is None:
            gc.collect()  # it may have been left unclosed, and nobody has it any more
            self._stranger_since = now
        elif now > self._stranger_since + self._strangers:
            raise TraceError(f"{self.path}: {_OPEN_HERE}: close that first") from error


def tell(line: str) -> None:
    """Something for whoever sits at the terminal; into a log it does not go."""
    if sys.stderr.isatty():
        sys.stderr.write(f"probe: {line}\n")


def is_lock(error: Exception) -> bool:
    return any(words in str(error).lower() for words in _LOCKED)


def is_full(error: Exception) -> bool:
    return any(words in str(error).lower() for words in _FULL)


_OPEN_HERE = "this process has it open by a DuckDB connection of its own (duckdb.connect)"


def _taken(error: Exception) -> str:
    """Who has the file, in words."""
    found = re.search(r"\(PID (\d+)\)", str(error))
    if found is None:
        return "another thread of this process has it open"
    pid = int(found[1])
    if pid == os.getpid():
        return _OPEN_HERE
    runs = _command(pid)
    return f"another process has the file open (PID {pid})" + (f", which runs {runs}" if runs else "")


def _command(pid: int) -> str:
    """What a process was started as, shortened; "" where that cannot be seen."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text("utf-8", "replace").split("\0")
    except OSError:
        return ""
    text = " ".join(" ".join(words).split())
    return f"{text[:77]}..." if len(text) > 80 else text


def explain(error: Exception, path: object) -> TraceError:
    """The one line for what DuckDB said about `path`."""
    text = " ".join(str(error).split())
    low = text.lower()
    if isinstance(error, TraceError):
        return error
    if is_full(error):
        return TraceError(
            f"{path}: the disk is full or a limit was reached; what was committed before is kept ({text})"
        )
    if "could not read enough bytes" in low or "corrupt" in low or "checksum" in low:
        return TraceError(f"{path}: cut off or damaged ({text[:120]}); take it from a backup, or record it again")
    if "not a valid duckdb database" in low:
        return TraceError(f"{path}: not a trace (not a DuckDB database file)")
    if "newer version" in low or "different version" in low or "database file with version number" in low:
        return TraceError(f"{path}: written by a newer DuckDB; upgrade with 'pip install -U duckdb'")
    if "database does not exist" in low or "no such file" in low:
        return TraceError(f"{path}: no such file")
    if "permission denied" in low or "read-only file system" in low or "cannot open file" in low:
        return TraceError(f"{path}: cannot be opened ({text})")
    return TraceError(f"{path}: {text}")


def schema_version(con: Any, path: object) -> int:
    """The schema's version; TraceError when the file is a database of another program."""
    found = con.execute(
        "SELECT count(*) FROM duckdb_columns() WHERE database_name = 'trace' AND schema_name = 'raw' "
        "AND table_name = 'migrations' AND column_name IN ('version', 'name', 'applied_at')"
    ).fetchall()
    if found[0][0] != 3:
        raise TraceError(f"{path}: not a trace (a DuckDB database of another program)")
    return int(con.execute("SELECT max(version) FROM raw.migrations").fetchall()[0][0])


def _applied(con: Any) -> set[int]:
    return {int(version) for (version,) in con.execute("SELECT version FROM raw.migrations").fetchall()}


def _up_to_date(con: Any, path: object) -> bool:
    check_version(schema_version(con, path), path)
    return _applied(con) >= {version for version, _ in migrations()}


def check_version(version: int, path: object) -> None:
    if version > latest_version():
        raise TraceError(
            f"{path}: made by a newer version of this program (schema {version}, this one knows {latest_version()}); "
            "upgrade it"
        )


def create_schema(con: Any) -> None:
    """A new file's tables and views, with every migration marked as done, in one transaction."""
    with transaction(con):
        con.execute((HERE / "schema.sql").read_text(encoding="utf-8"))
        for version, name in migrations():
            _record(con, version, name)


def migrate(con: Any, path: object, upto: int | None = None) -> None:
    """Bring an old file to the present schema, each step recorded in its own transaction.

    Every step that is not in the file yet, also one below its version: two lines of work may number theirs apart.
    """
    check_version(schema_version(con, path), path)
    done = _applied(con)
    for version, name in migrations():
        if version not in done and version <= (upto or latest_version()):
            with transaction(con):
                con.execute((HERE / "migrations" / name).read_text(encoding="utf-8"))
                _record(con, version, name)


def memory() -> Any:
    """An empty trace in memory, without its views (see `views_sql`): what shards are put behind."""
    con = duckdb.connect(config=CONFIG)
    con.execute("ATTACH ':memory:' AS trace")
    con.execute("USE trace")
    tables = [text for text in _statements() if not _about_views(text)]
    with transaction(con):
        con.execute(";".join(tables))
        for version, name in migrations():
            _record(con, version, name)
    return con


def views_sql() -> str:
    """The part of the schema that makes macros and views."""
    return ";".join(text for text in _statements() if _about_views(text))


@cache
def _statements() -> tuple[str, ...]:
    return tuple(s.query for s in duckdb.extract_statements((HERE / "schema.sql").read_text(encoding="utf-8")))


def _about_views(text: str) -> bool:
    """Whether a statement of the schema makes, or comments, a macro or a view (comments on tables are left out)."""
    words = re.sub(r"--[^\n]*", "", text).split()
    what = words[2 if words[0] == "COMMENT" else 1]
    if what == "COLUMN":
        return not words[3].startswith("raw.") or words[3].startswith("raw.logits.")
    return what in ("MACRO", "VIEW")


def create_file(path: Path) -> None:
    """A new trace at `path`, whole or not at all: it is made under another name and moved into place."""
    if not path.parent.is_dir():
        raise TraceError(f"{path}: no such directory: {path.parent}")
    making = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        making.touch(exist_ok=False)
        making.unlink()
        con = connect(making, read_only=False, wait=0)
        try:
            create_schema(con)
            con.execute("CHECKPOINT")  # closing does it too, but says nothing when it fails
        finally:
            con.close()
        _move(making, path)
    except OSError as error:
        raise TraceError(f"{path}: cannot be written ({error.strerror})") from error
    except duckdb.Error as error:
        raise explain(error, path) from error
    finally:
        remove(making)


def _move(made: Path, path: Path) -> None:
    """Put the new file in place without overwriting: if another process was faster, its file is the one."""
    try:
        os.link(made, path)
    except FileExistsError:
        pass
    except OSError:
        os.replace(made, path)  # a file system without hard links


def remove(path: Path) -> None:
    """The file and its log."""
    for leftover in (path, Path(f"{path}.wal")):
        leftover.unlink(missing_ok=True)


def upgrade(path: Path, wait: float | None = None) -> None:
    """Check that `path` is a trace and bring it to the present schema where it is older."""
    if path.is_dir():
        raise TraceError(f"{path}: is a directory")
    if read(path, lambda con: _up_to_date(con, path), wait):
        return
    with _opened(path, False, START_WAIT if wait is None else wait) as con:
        migrate(con, path)


def _record(con: Any, version: int, name: str) -> None:
    con.execute("INSERT INTO raw.migrations VALUES (?, ?, ?)", [version, name, now()])


def now() -> datetime:
    """UTC without a zone, as the file keeps its times."""
    return datetime.now(UTC).replace(tzinfo=None)


@contextmanager
def transaction(con: Any) -> Iterator[None]:
    con.execute("BEGIN")
    try:
        yield
    except BaseException:
        _quietly(lambda: con.execute("ROLLBACK"))
        raise
    con.execute("COMMIT")


def _quietly(action: Callable[[], Any]) -> None:
    with suppress(duckdb.Error):  # the first error is the one to tell
        action()


# DuckDB takes 15 ms to start and 2 to open a file: what has answered is kept (without a file) for the next question.
_idle: list[Any] = []
os.register_at_fork(after_in_child=_idle.clear)
os.register_at_fork(after_in_child=_holders.forget)


@contextmanager
def _opened(
    path: str | os.PathLike[str], read_only: bool, wait: float, strangers: float = STRANGER_WAIT
) -> Iterator[Any]:
    """A connection to the file, which is let go of at the end; DuckDB's errors come out in our words."""
    con = _idle.pop() if _idle else duckdb.connect(config=CONFIG)
    try:
        _attach(con, str(path), read_only, wait, strangers, True)
        with _holding(str(path), con):
            yield con
    except duckdb.Error as error:
        _quietly(con.close)
        raise explain(error, path) from error
    except BaseException:
        _quietly(con.close)
        raise
    if len(_idle) < 4:
        _idle.append(con)
    else:
        con.close()


@contextmanager
def _holding(path: str, con: Any) -> Iterator[None]:
    """The file is ours meanwhile, and let go of in one step with saying so."""
    thread = threading.get_ident()
    try:
        yield
    except BaseException:
        with _holders.guard:
            _quietly(con.close)
            _holders.remove(path, thread)
        raise
    with _holders.guard:
        try:
            con.execute("USE memory")
            con.execute("DETACH trace")
        except BaseException:
            _quietly(con.close)
            raise
        finally:
            _holders.remove(path, thread)


@contextmanager
def writing(path: str | os.PathLike[str], wait: float | None = None, strangers: float = STRANGER_WAIT) -> Iterator[Any]:
    """One transaction on the trace at `path`, in its place when this ends; the file is open only meanwhile.

    strangers: how much of the waiting is for other connections of this process, which mostly stay.
    """
    with _opened(path, False, START_WAIT if wait is None else wait, strangers) as con:
        with transaction(con):
            yield con
        con.execute("CHECKPOINT")


def check_writable(path: str | os.PathLike[str], wait: float = START_WAIT) -> None:
    """TraceError where the trace at `path` cannot be opened to write, as while another program has it."""
    with _opened(path, False, wait):
        pass


def read(path: str | os.PathLike[str], ask: Callable[[Any], T], wait: float | None = None) -> T:
    """Open, ask, close. What `ask` returns must not need the connection any more."""
    with reading(path, wait) as con:
        return ask(con)


@contextmanager
def reading(path: str | os.PathLike[str], wait: float | None = None) -> Iterator[Any]:
    """A connection to ask on; the file is open only meanwhile."""
    with _opened(path, True, READ_WAIT if wait is None else wait) as con:
        yield con
