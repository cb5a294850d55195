"""The README's commands are run, as written, on the sample data."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands(heading):
    """The `$ …` lines of the console blocks under a heading."""
    part = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    blocks = re.findall(r"```console\n(.*?)```", part, re.DOTALL)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def python_blocks():
    return re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory that has the sample data, and `probe` on its path."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "sample_data").symlink_to(ROOT / "sample_data")
    (folder / "bin").mkdir()
    script = folder / "bin" / "probe"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m probes.cli.main "$@"\n')
    script.chmod(0o755)
    return folder


def run(command, folder):
    environment = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    return subprocess.run(["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True)


def test_the_session_runs_as_printed(folder):
    for command in commands("A session"):
        if "sample_data" in command or "demo.duckdb" in command:
            done = run(command, folder)
            assert done.returncode == 0, f"{command}\n{done.stderr}"
            assert done.stdout.strip(), command


def test_the_python_example_runs(folder):
    (block,) = python_blocks()
    done = run(f"python3 -c {shlex.quote(block)}".replace("python3", shlex.quote(sys.executable), 1), folder)
    assert done.returncode == 0, done.stderr


def test_every_command_is_in_the_table():
    from probes.cli.main import command_names

    missing = [name for name in command_names() if f"`probe {name}`" not in README]
    assert missing == []


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_it_stays_short():
    assert len(README.splitlines()) <= 130
