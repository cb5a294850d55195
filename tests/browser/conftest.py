"""A real Chromium over a real server, started the way people start it."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from app.server import ROOT
from tests.app.traces import HOSTILE, Shape, write_trace

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
START_SECONDS = 60


@pytest.fixture(scope="session")
def browser():
    if CHROMIUM is None:
        # Where everything must be checked, a missing browser is a failure and no excuse.
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no Chromium on this machine: install chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield chromium
        chromium.close()


class Server:
    """`probe app` as a process; `address` answers once `start` returns."""

    def __init__(self, traces):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        words = [sys.executable, "-m", "probes.cli.main", "app", *map(str, traces), "--port", str(self.port)]
        # A group of its own, as a terminal gives: Ctrl-C then reaches the command and the server alike.
        self.process = subprocess.Popen(
            words, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self.said = self.process.stderr.readline()

    def interrupt(self):
        """Ctrl-C; the exit code, and what was still said."""
        os.killpg(self.process.pid, signal.SIGINT)
        out, rest = self.process.communicate(timeout=20)
        return self.process.returncode, out + rest


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    traces = [
        write_trace(folder / "plain.duckdb", Shape()),
        write_trace(folder / "hostile.duckdb", Shape(sequences=4), tokens=list(HOSTILE)),
        write_trace(folder / "long.duckdb", Shape(sequences=1, length=1300, layers=2)),
    ]
    running = Server(traces)
    yield running
    if running.process.poll() is None:
        running.interrupt()


@pytest.fixture
def page(browser, server):
    """A tab that remembers every request and every error."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    tab = context.new_page()
    tab.requests, tab.errors, tab.dialogs = [], [], []
    tab.on("request", lambda request: tab.requests.append(request.url))
    tab.on("pageerror", lambda error: tab.errors.append(str(error)))
    tab.on("dialog", lambda dialog: (tab.dialogs.append(dialog.message), dialog.dismiss()))
    yield tab
    context.close()


def wait_until(condition, seconds=30):
    """The condition's value once it is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return value


def comes_to(wanted, read, seconds=30):
    """Wait until `read()` is what is wanted; what it is instead is said when it never is."""
    deadline = time.monotonic() + seconds
    while read() != wanted and time.monotonic() < deadline:
        time.sleep(0.05)
    assert read() == wanted
