"""`probe interventions` as a person types it."""

import json

import pytest

from probes.cli.main import main
from probes.interventions import interventions, parse
from probes.recipes import recipes


def test_the_list_names_all(capsys):
    assert main(["interventions"]) == 0
    listed, _, built = capsys.readouterr().out.partition("\nrecipes:")
    assert [line.split()[0] for line in listed.splitlines()] == sorted(interventions())
    assert [line.split()[0] for line in built.splitlines()[1:]] == sorted(recipes())


def test_one_is_defined(capsys):
    assert main(["interventions", "boost"]) == 0
    out = capsys.readouterr().out
    for words in ("arXiv 2505.14681", "w_e ← β · w_e", "at least 0", "default 4.0", "probability"):
        assert words in out


def test_json_holds_what_a_form_needs(capsys):
    assert main(["interventions", "--json"]) == 0
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)["interventions"]}
    assert found.keys() == interventions().keys()
    assert found["boost"]["names_experts"] == "required"
    factor, renormalize = found["boost"]["options"]
    assert (factor["name"], factor["type"], factor["default"], factor["low"]) == ("factor", "float", 4.0, 0.0)
    assert (renormalize["name"], renormalize["type"]) == ("renormalize", "bool")
    assert found["reroute"]["aliases"] == {"from": "expert"}


@pytest.mark.parametrize("name", sorted(interventions()))
def test_examples_can_be_parsed(name, capsys):
    assert main(["interventions", name, "--json"]) == 0
    example = json.loads(capsys.readouterr().out)["example"]
    assert parse(example.replace("…", "2")).name == name


def test_a_wrong_name_suggests_the_right_one(capsys):
    assert main(["interventions", "bost"]) == 2
    assert "did you mean 'boost'" in capsys.readouterr().err
