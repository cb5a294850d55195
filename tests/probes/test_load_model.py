"""Loading a model: what works, and every way it cannot, in one line."""

import json
import shutil

import pytest
import torch

from probes.errors import ProbeError
from probes.model import load_model


@pytest.fixture
def broken(olmoe_folder, tmp_path):
    return shutil.copytree(olmoe_folder, tmp_path / "model")


def refused(folder, *words):
    with pytest.raises(ProbeError) as error:
        load_model(str(folder))
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_folder_is_loaded_for_evaluation(olmoe_folder, olmoe):
    model, tokenizer = load_model(str(olmoe_folder))
    assert not model.training
    ids = torch.tensor([tokenizer("the quick brown fox")["input_ids"]])
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, olmoe(input_ids=ids).logits)


def test_dtype(olmoe_folder):
    assert load_model(str(olmoe_folder), dtype="bfloat16")[0].dtype == torch.bfloat16
    with pytest.raises(ProbeError, match="bfloat16"):
        load_model(str(olmoe_folder), dtype="bfloat")


def test_a_missing_folder_suggests_its_neighbour(olmoe_folder):
    refused(olmoe_folder.parent / "tiny-olmo", "no model folder", "did you mean 'tiny-olmoe'")
    refused(olmoe_folder / "config.json", "is a file")


def test_an_empty_folder(tmp_path):
    refused(tmp_path, "config.json", "not a model folder")


def test_a_config_that_is_no_json(broken):
    (broken / "config.json").write_text("{")
    refused(broken, "config.json", "not JSON")


def test_an_unknown_architecture_suggests_the_nearest(broken):
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "model_type": "olmoee"}))
    refused(broken, "unknown architecture 'olmoee'", "did you mean 'olmoe'")


def test_code_of_its_own_needs_permission(broken):
    config = json.loads((broken / "config.json").read_text())
    changed = {
        **config,
        "model_type": "mine",
        "auto_map": {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.M"},
    }
    (broken / "config.json").write_text(json.dumps(changed))
    (broken / "mine.py").write_text("raise SystemExit('ran')\n")
    refused(broken, "code of its own", "--trust-remote-code")


def test_truncated_weights(broken):
    file = broken / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    refused(broken, "model.safetensors", "truncated")
    file.write_bytes(b"\x10\x00")
    refused(broken, "damaged")


def test_weights_that_are_missing_or_pickled(broken):
    (broken / "model.safetensors").unlink()
    refused(broken, "no .safetensors weights")
    torch.save({}, broken / "pytorch_model.bin")
    refused(broken, "pytorch_model.bin", "run code")


def test_a_shard_that_is_missing(broken):
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (broken / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(broken, "lacks 1 of 2 weight files", "model-00002-of-00002.safetensors")


def test_a_dense_model(tmp_path, tokenizer):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    refused(tmp_path, "has no mixture-of-experts layers")


def test_offline(monkeypatch):
    refused("somebody/some-moe-that-is-not-here", "somebody/some-moe-that-is-not-here", "not on this machine")
