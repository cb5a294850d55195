"""Is a recording still going on? Its process must run, here, and be the one that wrote."""

import os
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta

from store.alive import _started, is_alive

NOW = datetime.now(UTC).replace(tzinfo=None)
HERE = socket.gethostname()


def test_this_process_is():
    assert is_alive(os.getpid(), HERE, NOW)
    assert abs(_started(os.getpid()) - NOW) < timedelta(hours=2)


def test_a_finished_one_is_not():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert not is_alive(process.pid, HERE, NOW)
    assert not is_alive(None, None, NOW)
    assert not is_alive(os.getpid(), HERE, None)


def test_another_process_with_the_same_number_is_not():
    assert not is_alive(os.getpid(), HERE, NOW - timedelta(days=400))


def test_elsewhere_the_heartbeat_tells():
    now = datetime.now(UTC).replace(tzinfo=None)  # the suite takes longer than the silence that counts as death
    assert is_alive(1, "another-machine", now)
    assert not is_alive(1, "another-machine", now - timedelta(hours=1))
