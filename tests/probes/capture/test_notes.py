"""What is said about a model before it is recorded."""

from models import build

from probes.capture.check import self_test
from probes.capture.notes import notes


def said(model):
    return " ".join(notes(model, self_test(model).layers))


def test_an_ordinary_model_is_bit_identical_and_that_is_all():
    assert said(build("olmoe")).startswith("the model's output stays bit-identical")


def test_experts_that_run_twice_are_named():
    assert "second run" in said(build("dbrx"))
    assert "second run" not in said(build("llama4"))  # every expert runs there anyway


def test_quantised_weights_static_caches_and_kernels_are_named():
    model = build("olmoe")
    model.config.quantization_config = {"quant_method": "mxfp4"}
    model.generation_config.cache_implementation = "static"
    text = said(model)
    assert "quantised (mxfp4)" in text
    assert "dequantize=True" in text
    assert "disable_compile=True" in text
