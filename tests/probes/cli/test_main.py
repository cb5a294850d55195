"""The command as a whole: help, wrong words, exit codes, and how fast it answers."""

import json
import resource
import subprocess
import sys

import pytest

from probes.cli.main import command_names, main


def probe(*words, **kwargs):
    return subprocess.run([sys.executable, "-m", "probes.cli.main", *words], capture_output=True, text=True, **kwargs)


@pytest.mark.parametrize("name", command_names())
def test_every_command_has_help_with_an_example(name, capsys):
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    help_ = capsys.readouterr().out
    assert f"probe {name}" in help_.split("example:")[1]


def test_help_is_cheap():
    """The heavy libraries are imported by the commands that need them. The bound leaves room for a slow machine."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = probe("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    assert all(name in done.stdout for name in command_names())
    loaded = probe_modules()
    assert not loaded & {"torch", "transformers", "pandas", "duckdb", "streamlit", "plotly", "numba"}
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2


def probe_modules():
    code = "import sys; from probes.cli.main import build_parser; build_parser(); print(' '.join(sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["recrod"], "did you mean 'record'?"),
        (["record", "m", "--prompt", "x", "--ouut", "y"], "did you mean '--out'?"),
        (["sql"], "required"),
        (["analyze", "lode", "x.duckdb"], "did you mean 'load'?"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(words, said, capsys):
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err
    assert captured.err.count("\n") == 1


def test_no_command_prints_the_help_and_fails(capsys):
    assert main([]) == 2
    assert "COMMAND" in capsys.readouterr().out


def test_a_reader_that_leaves_is_no_error(tmp_path):
    command = f"{sys.executable} -m probes.cli.main doctor --json | head -c 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert done.stderr == ""


def test_doctor_speaks_json():
    done = probe("doctor", "--json")
    checks = json.loads(done.stdout)
    assert {check["name"] for check in checks} >= {"Python", "torch", "transformers", "DuckDB", "sample model"}
