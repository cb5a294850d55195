"""Starts the dashboard: checks what it is asked to serve, then runs Streamlit with safe settings until Ctrl-C.

`python -m app.server TRACE… [--host H] [--port P]`. Streamlit by itself listens on every interface and answers to any
Host header; here it listens on the loopback address, and only to the names people use for it.
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from app.options import Options, as_words
from app.theme import streamlit_options
from probes.errors import ProbeError, UsageError
from probes.parsing import whole
from store.errors import TraceError

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
START_SECONDS = 60  # Streamlit answers in two or three; a busy machine may need longer
UPLOAD_MB = 64  # prompts to record
ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "app" / "entry" / "dashboard.py"


def serve(traces: Sequence[str], host: str = "127.0.0.1", port: int = 8501, open_browser: bool = False,
          i_know: bool = False, record_to: str | None = None, models: Sequence[str] = ()) -> int:  # fmt: skip
    """Serve `traces` until interrupted; 0 when stopped, 1 when Streamlit ended by itself.

    record_to: folder for what is recorded from the browser (default: a temporary one). models: folders of models to
    steer. Raises UsageError for a host that others can reach without `i_know`, ProbeError for a trace or a model that
    is none, a folder that cannot be written to or a port that is taken: all before anything is started.
    """
    check_host(host, i_know)
    check_traces(traces)
    check_folder(record_to)
    check_models(models)
    check_port(host, port)
    return _run(command(traces, host, port, record_to, models), url(host, port), open_browser)


def command(
    traces: Sequence[str], host: str, port: int, record_to: str | None = None, models: Sequence[str] = ()
) -> list[str]:
    """The Streamlit command line: every setting that matters is said, so that no config file decides it."""
    options = [f"--{name}={value}" for name, value in settings(host, port).items()]
    options += [f"--server.allowedHosts={name}" for name in allowed_hosts(host)]
    files = tuple(str(Path(trace).resolve()) for trace in traces)
    place = None if record_to is None else str(Path(record_to).resolve())
    folders = tuple(str(Path(model).resolve()) for model in models)
    own = as_words(Options(files, place, not is_loopback(host), folders))
    return [sys.executable, "-P", "-m", "app.launch", "run", str(SCRIPT), *options, "--", *own]


def settings(host: str, port: int) -> dict[str, str]:
    """Streamlit options by name."""
    return {
        "server.address": host,
        "server.port": str(port),
        "server.headless": "true",
        "server.enableCORS": "true",
        "server.enableXsrfProtection": "true",
        "server.fileWatcherType": "none",
        "server.runOnSave": "false",
        "server.maxUploadSize": str(UPLOAD_MB),
        "server.enableStaticServing": "false",
        "browser.gatherUsageStats": "false",
        "client.showErrorDetails": "full" if is_loopback(host) else "none",
        "client.showErrorLinks": "false",
        "client.toolbarMode": "viewer",
        "logger.level": "error",
        **streamlit_options(),
    }


def allowed_hosts(host: str) -> tuple[str, ...]:
    """The Host headers to answer to. Anything else is another site that had its name point here (DNS rebinding)."""
    if is_loopback(host):
        return LOOPBACK_NAMES
    own = (socket.gethostname(), socket.getfqdn())
    return tuple(dict.fromkeys((*LOOPBACK_NAMES, *own, *([] if host in ("0.0.0.0", "::") else [host]))))  # noqa: S104


def check_host(host: str, i_know: bool) -> None:
    """A host that others can reach needs a word that this is meant: the dashboard has no login."""
    if not is_loopback(host) and not i_know:
        raise UsageError(
            f"--host {host} lets others on the network read these traces, and there is no login; "
            "say --i-know if that is meant, or use an SSH tunnel to 127.0.0.1"
        )


def check_traces(traces: Sequence[str]) -> None:
    """Every trace exists and is one; ProbeError names the first that is not."""
    for trace in traces:
        if not Path(trace).exists():
            raise ProbeError(f"there is no trace {trace}")
        try:
            _try_trace(trace)
        except TraceError as error:
            raise ProbeError(str(error)) from error


def check_folder(record_to: str | None) -> None:
    """New recordings can be written there; ProbeError where they cannot."""
    if record_to is not None and not (Path(record_to).is_dir() and os.access(record_to, os.W_OK)):
        raise ProbeError(f"--record-to {record_to}: no folder that can be written to")


def check_models(models: Sequence[str]) -> None:
    """Every model is a folder with a config; ProbeError names the first that is not."""
    for model in models:
        if not (Path(model) / "config.json").is_file():
            raise ProbeError(f"--model {model}: no folder of a model (it has no config.json)")


def check_port(host: str, port: int) -> None:
    """The port can be had; ProbeError where another program has it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ProbeError(
                f"port {port} on {host} cannot be used ({error.strerror}); try --port {port + 1}"
            ) from error


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def url(host: str, port: int) -> str:
    """The address to open in a browser on this machine."""
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


def _try_trace(trace: str) -> None:
    from store.trace import open_trace

    open_trace(trace).runs()


def _run(words: list[str], address: str, open_browser: bool) -> int:
    # The package may not be installed but run from its folder; Streamlit is another process and has to find it too.
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    # Every visit runs in a thread of its own, and glibc keeps what each has freed to itself: a fifth of the memory.
    own = {"MALLOC_ARENA_MAX": "2", **os.environ, "PYTHONPATH": path}
    process = subprocess.Popen(words, env=own, stdout=subprocess.DEVNULL)
    threading.Thread(target=_announce, args=(process, address, open_browser), daemon=True).start()
    with _stopped_by_term(process):
        try:
            process.wait()
        except KeyboardInterrupt:
            return _stop(process)
    return 0 if process.returncode in (0, -signal.SIGTERM, -signal.SIGINT) else 1


def _announce(process: subprocess.Popen[bytes], address: str, open_browser: bool) -> None:
    """Say where the dashboard is once it answers, not before."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if _answers(address):
            _say(f"dashboard at {address}  (Ctrl-C ends it)")
            if open_browser:
                _open_browser(address)
            return
        time.sleep(0.1)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/_stcore/health", timeout=2):  # noqa: S310 (our own http address)
            return True
    except OSError:
        return False


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _open_browser(address: str) -> None:
    import webbrowser

    webbrowser.open(address)


@contextlib.contextmanager
def _stopped_by_term(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """A polite kill of this process ends the server too; otherwise it would keep the port."""
    previous = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _stop(process: subprocess.Popen[bytes]) -> int:
    process.terminate()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    return 0


def arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument("traces", nargs="*", metavar="TRACE")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=lambda text: whole(text, "--port", 1, 65535), default=8501)
    parser.add_argument("--i-know", action="store_true")
    parser.add_argument("--open", action="store_true")
    parser.add_argument("--record-to")
    parser.add_argument("--model", action="append", default=[])


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m app.server")
    arguments(parser)
    try:
        args = parser.parse_args(words)
        return serve(args.traces, args.host, args.port, args.open, args.i_know, args.record_to, args.model)
    except ProbeError as error:
        _say(f"probe: {error}")
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
