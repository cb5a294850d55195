"""`probe eval` as a person types it."""

import json

import pytest

from probes.cli.main import main
from probes.sample import sample_path

MODEL, SUMS = str(sample_path() / "model"), str(sample_path() / "tasks/sums.jsonl")


def test_text_and_json_and_files(capsys, tmp_path):
    out = tmp_path / "found.json"
    words = ["eval", MODEL, "--tasks", SUMS, "--intervention", "random", "--limit", "3", "--control-seeds", "1"]
    assert main([*words, "--max-new-tokens", "30", "--resume", str(tmp_path / "work.jsonl"), "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert "exact_match (share; n = 3; 95 % intervals in brackets)" in said.out
    assert "Holm's correction" in said.out
    assert said.err == ""
    assert len(json.loads(out.read_text())["items"]) == 9
    assert main([*words, "--max-new-tokens", "30", "--resume", str(tmp_path / "work.jsonl"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["arm"] for row in found["rows"]} == {"baseline", "random"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tasks", "no.jsonl"], "do not exist"),
        (["--tasks", SUMS, "--intervention", "ban"], "no experts are named"),
        (["--tasks", SUMS, "--control-seeds", "-1"], "--control-seeds must be at least 0"),
        (["--tasks", SUMS, "--max-new-tokens", "0"], "--max-new-tokens must be at least 1"),
        (["--tasks", SUMS, "--out", "/no/such/folder/x.json"], "there is no folder"),
        (["--tasks", SUMS, "--join", "blank"], "unknown join"),
        (["--task", SUMS, "--intervention", "ban:layer=0,exprt=3"], "did you mean 'expert'"),
    ],
)
def test_mistakes_are_one_line(words, said, capsys):
    assert main(["eval", MODEL, *words]) in (1, 2)
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
