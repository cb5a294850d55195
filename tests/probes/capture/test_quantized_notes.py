"""A quantizer that passes by the experts is named in the self-test's notes."""

import copy

import pytest

from probes.capture.check import self_test


def _quantized(model):
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    model = copy.deepcopy(model)
    quantize_(model, Int8WeightOnlyConfig())
    return model


@pytest.mark.filterwarnings("ignore")
def test_experts_left_in_full_precision_are_named(olmoe):
    notes = self_test(_quantized(olmoe)).notes
    assert "its experts are not quantised: their weights are float32; other weights are quantised" in notes


@pytest.mark.filterwarnings("ignore")
def test_a_model_in_full_precision_has_no_such_note(olmoe):
    assert not [note for note in self_test(copy.deepcopy(olmoe)).notes if "quantised" in note]
