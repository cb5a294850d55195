"""A checkpoint without some of its weights: they are random, and everybody is told."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import probes
from probes.capture import self_test
from probes.cli.main import main
from probes.errors import ProbeError
from store.trace import open_trace

ROUTER = "model.layers.1.mlp.gate.weight"


@pytest.fixture
def changed(olmoe, tokenizer, tmp_path):
    """(function of a checkpoint's tensors) -> a folder whose weights it has changed."""

    def make(change):
        folder = tmp_path / "model"
        olmoe.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return make


def test_a_missing_router_is_said_by_record_and_check(changed, prompts_file, tmp_path, capsys):
    folder = changed(lambda weights: weights.pop(ROUTER))
    done = probes.record(folder, prompts_file, tmp_path / "t.duckdb", progress=False)
    said = "layer 1: its router: weight is not in the checkpoint, random numbers stand there; its routing means nothing"
    assert said in done.notes
    provenance = json.loads(open_trace(tmp_path / "t.duckdb").run(1)["provenance"])
    assert said in provenance["notes"]
    assert any(ROUTER in note for note in provenance["notes"])
    assert main(["check", str(folder)]) == 0
    assert said in capsys.readouterr().out


def test_a_whole_checkpoint_says_nothing(olmoe_folder):
    model, _ = probes.load_model(olmoe_folder)
    report = self_test(model)
    assert not any("random" in line for line in report.lines())


def test_missing_experts_are_said(changed):
    def without_experts(weights):
        for name in [name for name in weights if "layers.2.mlp.experts" in name and "down_proj" in name]:
            del weights[name]

    model, _ = probes.load_model(changed(without_experts))
    words = {r.layer: r.words for r in self_test(model).layers}
    assert any("its experts: down_proj is not in the checkpoint" in word for word in words[2])
    assert not any("random" in word for layer in (0, 1) for word in words[layer])


def test_one_missing_expert_is_refused_by_name(changed):
    def without_one(weights):
        for name in [name for name in weights if "layers.2.mlp.experts.3." in name]:
            del weights[name]

    with pytest.raises(ProbeError, match=r"layers\.2\.mlp\.experts\.\w+ has shape \[7, 32, \d+\].*\[8, 32, \d+\]"):
        probes.load_model(changed(without_one))


def test_another_shape_is_refused_by_name(changed):
    def smaller(weights):
        weights[ROUTER] = weights[ROUTER][:4].clone()

    with pytest.raises(ProbeError, match=r"layers\.1\.mlp\.gate\.weight has shape \[4, 32\].*\[8, 32\] by config.json"):
        probes.load_model(changed(smaller))


def test_what_is_put_there_later_is_no_longer_random(changed, olmoe):
    model, _ = probes.load_model(changed(lambda weights: weights.pop(ROUTER)))
    assert any("random" in line for line in self_test(model).lines())
    model.load_state_dict(olmoe.state_dict())
    assert not any("random" in line for line in self_test(model).lines())
    torch.testing.assert_close(model.get_parameter(ROUTER), olmoe.get_parameter(ROUTER))
