"""Whether the process that wrote to a run last still does."""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

SILENCE = timedelta(minutes=15)  # of a process on another machine, after which it is taken to be dead


def is_alive(pid: int | None, host: str | None, heartbeat: datetime | None) -> bool:
    """True while it runs here, or (elsewhere) while it has committed lately. `heartbeat`: its last commit, UTC."""
    if pid is None or heartbeat is None:
        return False
    if host != socket.gethostname():
        return datetime.now(UTC).replace(tzinfo=None) - heartbeat < SILENCE
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    started = _started(pid)
    return started is None or started <= heartbeat + timedelta(seconds=1)  # younger: the number was given again


def _started(pid: int) -> datetime | None:
    """When the process began, UTC; None where /proc does not tell."""
    try:
        ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        booted = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime"))
        seconds = int(booted.split()[1]) + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, StopIteration, IndexError, ValueError):
        return None
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)
