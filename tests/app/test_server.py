"""`probe app`: what it refuses, and the settings it never leaves to chance."""

import socket
import subprocess
import sys

import pytest

from app import server
from probes.errors import ProbeError, UsageError
from tests.app.traces import Shape, write_trace


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_loopback_needs_no_word(host):
    server.check_host(host, i_know=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_a_host_that_others_reach_needs_a_word(host):
    with pytest.raises(UsageError, match="--i-know"):
        server.check_host(host, i_know=False)
    server.check_host(host, i_know=True)
    assert server.settings(host, 1)["client.showErrorDetails"] == "none"


def test_settings_are_safe():
    settings = server.settings("127.0.0.1", 8501)
    safe = {
        "server.address": "127.0.0.1", "server.enableCORS": "true", "server.enableXsrfProtection": "true",
        "server.headless": "true", "browser.gatherUsageStats": "false", "server.fileWatcherType": "none",
        "server.maxUploadSize": "64", "server.enableStaticServing": "false",
    }  # fmt: skip
    assert safe.items() <= settings.items()


def test_every_setting_is_one_that_streamlit_knows():
    from streamlit import config

    known = set(config.get_config_options())
    names = {*server.settings("127.0.0.1", 1), "server.allowedHosts"}
    assert names <= known


def test_only_names_of_this_machine_are_answered():
    from streamlit import config
    from streamlit.web.server.starlette import starlette_websocket

    config.set_option("server.allowedHosts", list(server.allowed_hosts("127.0.0.1")))
    try:
        assert starlette_websocket.is_host_allowed("localhost:8501")
        assert starlette_websocket.is_host_allowed("127.0.0.1:8501")
        assert not starlette_websocket.is_host_allowed("evil.example:8501")
    finally:
        config.set_option("server.allowedHosts", [])


def test_a_trace_that_is_none_is_named(tmp_path):
    with pytest.raises(ProbeError, match=r"nowhere\.duckdb"):
        server.check_traces([str(tmp_path / "nowhere.duckdb")])
    fake = tmp_path / "fake.duckdb"
    fake.write_text("not a database")
    with pytest.raises(ProbeError, match=r"fake\.duckdb"):
        server.check_traces([str(fake)])
    server.check_traces([str(write_trace(tmp_path / "real.duckdb", Shape(sequences=1)))])


def test_a_port_in_use_is_one_clear_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ProbeError, match=f"port {port}"):
            server.check_port("127.0.0.1", port)


def test_the_address_shown_can_be_opened():
    assert server.url("0.0.0.0", 80) == "http://127.0.0.1:80"
    assert server.url("::1", 80) == "http://[::1]:80"


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [(["nowhere.duckdb"], 1, "nowhere.duckdb"), (["--host", "0.0.0.0"], 2, "--i-know")],
)
def test_the_command_says_one_line_and_its_exit_code(words, code, says, tmp_path):
    """Also from a folder that has a package `app` of its own, as many projects do."""
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__init__.py").write_text("raise RuntimeError('not this one')")
    line = [sys.executable, "-P", "-m", "probes.cli.main", "app", *words]
    environment = {"PYTHONPATH": str(server.ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=60)
    assert done.returncode == code
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


def test_nothing_runs_beside_the_imports_that_look_for_each_other():
    """Plotly, which Streamlit imports, takes a pandas that another thread is still importing for a whole one."""
    code = (
        "import contextlib, sys\n"
        "from app import launch\n"
        "there = []\n"
        "launch.prepare = lambda words: there.append(set(sys.modules))\n"
        "sys.argv = ['launch', '--version']\n"
        "with contextlib.suppress(SystemExit): launch.main()\n"
        "assert {'pandas', 'plotly.graph_objects', 'streamlit.web.cli'} <= there[0]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=server.ROOT)


def test_what_stands_out_is_found_before_somebody_looks(tmp_path):
    trace = write_trace(tmp_path / "a.duckdb", Shape())
    code = (
        "from app import launch\n"
        "from app.later import later\n"
        f"launch.first_answers(['streamlit', 'run', 'script', '--', {str(trace)!r}])\n"
        "assert later.asked == 1\n"
        "later.wait(60)\n"
        "from app.overview_facts import facts\n"
        "from app.trace_file import identify\n"
        f"found, n = facts(identify({str(trace)!r}), 1).result(timeout=0)\n"
        "assert found and n\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=server.ROOT)


def test_what_is_loaded_at_the_start_is_not_gone_through_for_garbage():
    """Streamlit collects after every run, and the browser waits for the end of it."""
    code = (
        "import gc\n"
        "from app import launch\n"
        "launch.prepare([])\n"
        "assert gc.get_freeze_count() > 10 * len(gc.get_objects())\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=server.ROOT)
