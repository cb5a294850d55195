"""What transformers writes over after reading a checkpoint is put back, and said."""

import pytest
import torch

import probes
from probes.capture.check import self_test
from probes.families import families
from probes.families.tiny import tiny_model


def saved(name, tokenizer, folder, bias=None):
    model = tiny_model(families()[name])
    for key, buffer in model.named_buffers():
        if bias is not None and key.endswith("balancing_biases"):
            buffer.fill_(bias)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


@pytest.mark.filterwarnings("ignore")
def test_a_trained_bias_of_zaya_is_that_of_the_checkpoint(tokenizer, tmp_path):
    model = saved("zaya", tokenizer, tmp_path / "m", bias=0.25)
    loaded, _ = probes.load_model(tmp_path / "m", dtype="float32")
    biases = [b for key, b in loaded.named_buffers() if key.endswith("balancing_biases")]
    assert biases
    assert all((b == 0.25).all() for b in biases)
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, loaded(input_ids=ids).logits)
    assert any("they are put back" in note for note in self_test(loaded).notes)


@pytest.mark.filterwarnings("ignore")
def test_nothing_is_said_of_a_model_that_is_as_saved(tokenizer, tmp_path):
    saved("deepseek_v3", tokenizer, tmp_path / "m")
    loaded, _ = probes.load_model(tmp_path / "m")
    assert not any("put back" in note for note in self_test(loaded).notes)
