"""`probe families` and `probe check` as a person types them."""

import json

import pytest

from probes.cli.main import main


def test_the_list_and_one_family(capsys):
    assert main(["families"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 72
    assert main(["families", "gemma4"]) == 0
    out = capsys.readouterr().out
    assert "probs_router" in out
    assert "softmax" in out


def test_json(capsys):
    assert main(["families", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["families"]
    assert len(found) == 72
    assert found[0].keys() >= {"name", "rule", "formula", "limits"}


def test_a_wrong_name_suggests_the_right_one(capsys):
    assert main(["families", "mixtal"]) == 2
    assert "did you mean 'mixtral'" in capsys.readouterr().err


def test_check_one_family(capsys):
    assert main(["families", "mixtral", "--check", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["families"]
    assert found["recorded"] == "logits, ids, weights, norms"
    assert found["bit_identical"] == {"float32": True, "bfloat16": True}
    assert found["failures"] == []


def test_a_page_is_of_all_families(capsys, tmp_path):
    assert main(["families", "mixtral", "--check", "--write", str(tmp_path / "x.md")]) == 2
    assert "--write needs" in capsys.readouterr().err


def test_check_a_model(olmoe_folder, capsys):
    assert main(["check", str(olmoe_folder)]) == 0
    out = capsys.readouterr().out
    assert "model.layers.2.mlp.gate" in out
    assert "3 of 3 layers: logits, ids, weights, outputs" in out
    assert "bit-identical" in out
    assert main(["check", str(olmoe_folder), "--json", "--dtype", "bfloat16"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True
    assert [layer["rule"] for layer in report["layers"]] == ["softmax_topk"] * 3


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [(["check", "/no/such/model"], 1, "no model folder"), (["check", "m", "--dtype", "int3"], 2, "dtype")],
)
def test_what_cannot_be_done_is_one_line(arguments, code, words, capsys):
    assert main(arguments) in (1, code)
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
