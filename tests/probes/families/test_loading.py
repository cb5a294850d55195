"""Every family is loaded from a folder by `probes.load_model` and recorded, towers, encoders and all."""

import shutil
from dataclasses import replace

import duckdb
import pytest
import torch

import probes
from probes.capture import discover
from probes.capture.check import dummy_inputs
from probes.errors import ProbeError
from probes.families import families, family
from probes.families.tiny import tiny_model
from probes.model_class import TEXT_PARTS, text_part
from probes.prompts import Prompt, Prompts

from .whole import VOCABULARY, WHOLE, whole_model

QUICK = ("olmoe", "mistral4", "qwen3_omni_moe", "openai_privacy_filter", "deepseek_ocr2", "switch_transformers")
QUICK_WHOLE = ("aria", "qwen3_vl_moe", "diffusion_gemma", "openai_privacy_filter", "qwen3_omni_moe")

TEXTS = ("the quick brown fox", "a")
SEEN = {"ernie4_5_vl_moe": 1 / 2}  # half of its layers are for images


def loaded(model, tokenizer, folder):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    try:
        return probes.load_model(folder)[0]
    finally:
        shutil.rmtree(folder)


def outputs(model):
    with torch.no_grad():
        given = model(**dummy_inputs(model, tokens=6, batch=2))
    return [given[n] for n in ("logits", "last_hidden_state") if getattr(given, n, None) is not None]


def recorded(model, tokenizer, out, **settings):
    """(rows of the routing, those with experts, layers, notes)."""
    prompts = Prompts([Prompt(t, t, text=t) for t in TEXTS], [])
    done = probes.record(model, prompts, out, tokenizer=tokenizer, progress=False, **settings)
    with duckdb.connect(str(out), read_only=True) as connection:
        rows = connection.execute("select count(*), count(experts), count(distinct layer) from routing").fetchone()
    return *rows, done.notes


def loads_and_records(name, tokenizer, folder):
    one = family(name)
    model = tiny_model(replace(one, tiny={**one.tiny, "vocab_size": VOCABULARY}))
    if name == "zaya":  # transformers 5.23 overwrites it after loading, whatever the checkpoint holds
        for key, buffer in model.named_buffers():
            if key.endswith("balancing_biases"):
                buffer[-1] = -1.0
    again = loaded(model, tokenizer, folder / "model")
    assert type(again) is type(model)
    assert all(torch.equal(a, b) for a, b in zip(outputs(model), outputs(again), strict=True))
    if "all" in one.limits:
        with pytest.raises(ProbeError, match=one.limits["all"][:20]):
            recorded(again, tokenizer, folder / "t.duckdb")
        return
    rows, chosen, layers, _ = recorded(again, tokenizer, folder / "t.duckdb", capture="ids,weights")
    assert layers == len(discover(again))
    assert chosen == (
        _of_both(again, tokenizer) if getattr(again.config, "is_encoder_decoder", False) else rows * SEEN.get(name, 1)
    )


def _of_both(model, tokenizer):
    """Encoder layers have the prompts' tokens, decoder layers one start token each."""
    depth = [found.stream for found in discover(model)]
    tokens = sum(len(tokenizer(text)["input_ids"]) for text in TEXTS)
    return depth.count("encoder") * tokens + depth.count("mlp") * len(TEXTS)


@pytest.mark.parametrize("name", QUICK)
def test_a_family_is_loaded_and_recorded(name, tokenizer, tmp_path):
    loads_and_records(name, tokenizer, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(families()) - set(QUICK)))
def test_every_other_family_is_too(name, tokenizer, tmp_path):
    loads_and_records(name, tokenizer, tmp_path)


def whole_is_recorded(name, tokenizer, folder):
    model = whole_model(name)
    again = loaded(model, tokenizer, folder / "model")
    assert type(again) is type(text_part(model))
    rows, chosen, _, notes = recorded(again, tokenizer, folder / "read.duckdb", capture="ids,weights,predictions")
    assert chosen == rows * SEEN.get(name, 1)
    if again.can_generate():
        assert recorded(again, tokenizer, folder / "written.duckdb", max_new_tokens=3)[1]
    else:
        assert any("predictions are missing" in note for note in notes)


@pytest.mark.parametrize("name", QUICK_WHOLE)
def test_a_whole_model_is_loaded_and_recorded(name, tokenizer, tmp_path):
    whole_is_recorded(name, tokenizer, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(WHOLE) - set(QUICK_WHOLE)))
def test_every_other_whole_model_is_too(name, tokenizer, tmp_path):
    whole_is_recorded(name, tokenizer, tmp_path)


def test_a_classifier_is_loaded_as_one(olmoe_folder, tokenizer, tmp_path):
    """As a causal language model its head would be random, and its predictions with it."""
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_config(tiny_model(family("qwen3_moe")).config).eval()
    again = loaded(model, tokenizer, tmp_path / "model")
    assert type(again) is type(model)
    assert torch.equal(again.score.weight, model.score.weight)
    assert type(probes.load_model(olmoe_folder)[0]).__name__ == "OlmoeForCausalLM"


def test_a_dry_run_takes_the_same_class(tokenizer, tmp_path):
    from probes.model import load_skeleton

    for name in ("aria", "diffusion_gemma", "openai_privacy_filter"):
        model = whole_model(name)
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        skeleton, _ = load_skeleton(tmp_path / name)
        assert type(skeleton) is type(text_part(model))


def test_the_parts_that_read_text_are_there():
    for name, path in TEXT_PARTS.items():
        model = whole_model(name)
        assert text_part(model) is model.get_submodule(path)
