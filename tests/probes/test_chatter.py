"""Our commands' stderr says what they have to say; lines of libraries about themselves stay away, and no others."""

import logging
import subprocess
import sys

import pytest

from probes.chatter import HUSHED, hush


@pytest.fixture
def hushed():
    """The filters on, and off again afterwards unless they were on before."""
    before = {name: list(logging.getLogger(name).filters) for name in HUSHED}
    hush()
    yield
    for name, filters in before.items():
        logging.getLogger(name).filters[:] = filters


def test_only_the_named_lines_are_dropped(hushed, caplog):
    said = {
        "torchao": [
            "Failed to load /x/_C_mxfp8.so: Could not load this library",
            "Failed to load the weights",
            "beware",
        ],
        "torch.utils._pytree": ["<enum 'X'> ... register_constant() on Enum subclasses is deprecated", "beware"],
    }
    for name, lines in said.items():
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            logger = logging.getLogger(name)
            logger.addHandler(caplog.handler)  # torch's loggers do not hand on to the root
            try:
                for line in lines:
                    logger.warning(line)
            finally:
                logger.removeHandler(caplog.handler)
        assert set(caplog.messages) == set(lines[1:])


def test_calling_it_again_adds_nothing(hushed):
    before = {name: len(logging.getLogger(name).filters) for name in HUSHED}
    hush()
    assert {name: len(logging.getLogger(name).filters) for name in HUSHED} == before


def test_a_commands_stderr_is_empty_where_all_went_well(olmoe_folder, tmp_path):
    prompts = tmp_path / "p.txt"
    prompts.write_text("the quick brown fox")
    words = ["record", str(olmoe_folder), "--prompts", str(prompts), "--out", str(tmp_path / "t.duckdb")]
    done = subprocess.run([sys.executable, "-m", "probes.cli.main", *words], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.startswith("run 1 in ")
