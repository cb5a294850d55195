"""Writers first: readers who keep coming must not keep a recording from its file.

DuckDB's lock knows no queue: two dashboards that ask all the time leave a writer waiting for a gap that hardly comes.
So a writer holds an advisory lock on the folder while it waits for the file, and readers look at that lock before
they open. No file is left behind, and who waited a second goes on anyway: it is courtesy, not safety.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE = 1.0


@contextmanager
def waiting_to_write(path: str) -> Iterator[None]:
    """Readers hold back meanwhile."""
    with _folder(path) as folder:
        _lock(folder, fcntl.LOCK_EX)
        yield


def let_writers_pass(path: str) -> None:
    """Wait, for a second at most, while somebody waits to write."""
    with _folder(path) as folder:
        _lock(folder, fcntl.LOCK_SH)


@contextmanager
def _folder(path: str) -> Iterator[int | None]:
    """The folder, not the file: closing any handle of the file would drop DuckDB's own lock on it (POSIX)."""
    try:
        folder = os.open(Path(path).resolve().parent, os.O_RDONLY)
    except OSError:
        yield None
        return
    try:
        yield folder
    finally:
        os.close(folder)


def _lock(folder: int | None, kind: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while folder is not None:
        try:
            fcntl.flock(folder, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                return
        except OSError:  # a file system without such locks
            return
        time.sleep(0.005)
