"""Recordings started from the browser: `probe record` in a process of its own, watched through its terminal.

Each has a name nobody can guess; who knows it (it is in the address of the page) sees the recording, and no one else.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import pty
import re
import secrets
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import probes
from probes.errors import ProbeError

AT_ONCE = 2  # recordings of all visitors together: each holds a model
KEPT_LINES, LONGEST_LINE = 400, 2_000
SUFFIXES = (".jsonl", ".txt", ".parquet")
COLUMNS = 100  # of the terminal the progress is written for
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")
_BAR = re.compile(r"(\d+)%\|.*?\|\s*(\S+)/(\S+) \[(.*?tokens/s.*?)\]")
# A dashboard that a script started in the background has Ctrl-C ignored, and children inherit that; but cancelling is
# Ctrl-C.
PROBE = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from probes.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
_jobs: dict[str, Recording] = {}
_lock = threading.Lock()


@dataclass(frozen=True)
class Progress:
    """share 0..1 of the tokens; done and total as text; what the terminal says of time, speed and size; `kept`: whether
    a batch is in the trace already."""

    share: float
    done: str
    total: str
    says: str
    kept: bool


@dataclass
class Recording:
    """One `probe record`: its process, the trace it writes, what its terminal said."""

    token: str
    trace: Path
    command: list[str]
    process: subprocess.Popen[bytes]
    prompts: Path
    started: float = field(default_factory=time.monotonic)
    cancelled: bool = False
    lines: list[str] = field(default_factory=lambda: [""])

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    @property
    def outcome(self) -> str:
        """ "running", "complete", "left out" (done, but not with all prompts), "cancelled" or "failed"."""
        code = self.process.poll()
        if code is None:
            return "running"
        if self.cancelled:
            return "cancelled"
        said = {0: "complete", 130: "cancelled"}.get(code, "failed")
        return "left out" if said == "failed" and any(line.startswith("run ") for line in self.lines) else said

    def log(self) -> list[str]:
        """What it said, without the progress bars."""
        return [line for line in self.lines if line.strip() and "%|" not in line]

    def progress(self) -> Progress | None:
        """How far it is; None before the first token."""
        for line in reversed(self.lines):
            if found := _BAR.search(line):
                kept = found[4].endswith(" MB")  # the bar says a size once there is one
                return Progress(int(found[1]) / 100, found[2], found[3], _spelled(found[4]), kept)
        return None

    def cancel(self) -> None:
        """Ctrl-C: it finishes the batch in hand and closes the trace; what is recorded stays."""
        self.cancelled = True
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGINT)


def start(
    model: Path, prompts: bytes, file_name: str, name: str, folder: str | None, options: Sequence[str] = ()
) -> Recording:
    """Record `prompts` (a file's content) through the model in folder `model` into `folder`/`name`.duckdb.

    file_name: what the prompts' file was called (see `plain_name`). folder: None for a new temporary one. options:
    further words of `probe record`, made by the page from its own pickers. Raises ProbeError, in one line, for names
    that are none and while too many others run.
    """
    with _lock:
        if sum(job.running for job in _jobs.values()) >= AT_ONCE:
            raise ProbeError(f"{AT_ONCE} recordings are running on this machine; wait for one to end")
        trace = target(name, folder)
        own = Path(tempfile.mkdtemp(prefix="router-upload-"))
        file = own / plain_name(file_name)
        file.write_bytes(prompts)
        # Started in the upload's folder: the trace then names the file, and not where it lay for a while.
        words = ["record", str(model), "--prompts", file.name, "--out", str(trace), *options]
        job = _launched(trace, words, file)
        _jobs[job.token] = job
        return job


def find(token: str | None) -> Recording | None:
    """The recording of that name, or None."""
    return _jobs.get(token or "")


def mine(tokens: str | None) -> list[Recording]:
    """The recordings named in the address of a page (between commas), as far as there are any."""
    return [job for token in (tokens or "").split(",") if (job := find(token)) is not None]


def current(tokens: str | None) -> Recording | None:
    """The one the address names last; None where a comma stands last: a new one is to begin."""
    return find((tokens or "").rpartition(",")[2])


def check_model(text: str) -> Path:
    """The folder of a model on this machine; ProbeError says what is wrong with it."""
    words = text.strip()
    if not words:
        raise ProbeError("name the folder of a model, as an absolute path")
    if "\x00" in words or len(words) > 1000:
        raise ProbeError("this is no path")
    folder = Path(words).expanduser()
    if not folder.is_absolute() or not folder.is_dir():
        raise ProbeError(
            f"{words!r} is no folder on this machine; give an absolute path (models are not downloaded from here: "
            "hf download NAME --local-dir FOLDER)"
        )
    if not (folder / "config.json").is_file():
        raise ProbeError(f"{words!r} holds no model: there is no config.json in it")
    return folder.resolve()


def plain_name(name: str) -> str:
    """Of the name somebody's file has, the letters, digits and a kind we know.

    >>> plain_name("../my prompts.JSONL"), plain_name("<b>.exe")
    ('my-prompts.jsonl', 'b.jsonl')
    """
    path = Path(name.replace("\\", "/"))
    suffix = path.suffix.lower() if path.suffix.lower() in SUFFIXES else SUFFIXES[0]
    stem = re.sub(r"[^A-Za-z0-9_]+", "-", path.stem).strip("-")[:60]
    return f"{stem or 'prompts'}{suffix}"


def target(name: str, folder: str | None) -> Path:
    """Where a recording of that name goes; ProbeError for a name that is none, or that is taken."""
    if not _NAME.fullmatch(name) or name.endswith("."):
        raise ProbeError(
            "the name of the trace takes letters, digits, dot, dash and underscore, and begins with a letter"
        )
    where = Path(tempfile.mkdtemp(prefix="router-recording-")) if folder is None else Path(folder)
    path = where / (name if name.endswith(".duckdb") else f"{name}.duckdb")
    if path.exists():
        raise ProbeError(f"there is already a {path.name}; choose another name")
    return path


def _spelled(times: str) -> str:
    """`00:02<00:34, 1.4k tokens/s, 0.4 MB` in words."""
    gone, _, rest = times.partition("<")
    left, _, more = rest.partition(", ")
    return f"{gone} gone, {left} to go, {more}" if left != "?" else more


def _launched(trace: Path, words: list[str], file: Path) -> Recording:
    """The process, on a terminal of its own: only there does it show its progress."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    command = [sys.executable, "-P", "-c", PROBE, *words]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, cwd=file.parent, env=_environment(),
        start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    job = Recording(secrets.token_urlsafe(16), trace, ["probe", *words], process, file)
    threading.Thread(target=_listen, args=(job, ours), daemon=True).start()
    return job


def _environment() -> dict[str, str]:
    """This installation first, and no network: a model that is not here is not fetched."""
    path = os.pathsep.join(filter(None, [str(Path(probes.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}


def _listen(job: Recording, terminal: int) -> None:
    """Collect what the terminal shows until it closes; then remove the upload."""
    with os.fdopen(terminal, "rb", buffering=0) as screen, contextlib.suppress(OSError):  # EIO: the other side closed
        while piece := screen.read(4096):
            _show(job.lines, piece.decode("utf-8", "replace"))
    job.process.wait()
    shutil.rmtree(job.prompts.parent, ignore_errors=True)


def _show(lines: list[str], text: str) -> None:
    """As a terminal does: a carriage return begins the line anew."""
    for part in re.split(r"(\r\n|\n|\r)", text):
        if part in ("\r\n", "\n"):
            lines.append("")
        elif part == "\r":
            lines[-1] = f"{lines[-1]}\r"
        elif part:
            before = "" if lines[-1].endswith("\r") else lines[-1]
            lines[-1] = (before + _ESCAPES.sub("", part))[:LONGEST_LINE]
    del lines[:-KEPT_LINES]


@atexit.register
def _stop_all() -> None:
    """The server ends: its recordings end as with Ctrl-C, by themselves; the uploads they have read go."""
    for job in _jobs.values():
        if job.running:
            job.cancel()
        shutil.rmtree(job.prompts.parent, ignore_errors=True)
