"""Bytes of an expert, by hand: three matrices of hidden size times width, in the precision they are kept in."""

import json

import pytest
import torch

from probes.capture import discover
from probes.families import families
from probes.families.tiny import tiny_model
from probes.model import load_model
from probes.recording.expert_bytes import expert_bytes, sizes_of
from probes.recording.record import record
from store.trace import open_trace

H, N = 32, 16  # hidden size and expert width of the tiny models


def provenance(path):
    return json.loads(open_trace(path).run(1)["provenance"])


def test_a_recording_keeps_both_sizes(olmoe, olmoe_folder, prompts_file, tmp_path):
    record(olmoe_folder, prompts_file, tmp_path / "t.duckdb", dtype="bfloat16", progress=False)
    kept = provenance(tmp_path / "t.duckdb")
    hand = 3 * 32 * 16  # gate, up, down
    assert kept["expert_bytes"]["loaded"] == {str(layer): 2 * hand for layer in range(3)}
    assert kept["expert_bytes"]["stored"] == {str(layer): 4 * hand for layer in range(3)}
    assert sizes_of(kept, "loaded", [0, 2]) == [2 * hand, 2 * hand]


def test_of_a_model_in_memory_the_files_are_not_known(olmoe, tokenizer, prompts_file, tmp_path):
    record(olmoe, prompts_file, tmp_path / "t.duckdb", tokenizer=tokenizer, limit=2, progress=False)
    kept = provenance(tmp_path / "t.duckdb")
    assert kept["expert_bytes"] == {"loaded": {str(layer): 4 * 3 * 32 * 16 for layer in range(3)}}
    assert sizes_of(kept, "stored", [0]) == [None]
    assert sizes_of({}, "loaded", [0, 1]) == [None, None]


# Packed, packed with biases, flattened rows, a module each, identities after the real ones, two routers in a layer.
@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("qwen3_moe", 3 * H * N),
        ("mixtral", 3 * H * H),
        ("gpt_oss", 3 * H * H + 2 * H + H),
        ("dbrx", 3 * H * N),
        ("switch_transformers", 2 * H * N),
        ("nemotron_h", 2 * H * N),
        ("longcat_flash", 3 * H * N),
        ("ernie4_5_vl_moe", 3 * H * N),
    ],
)
def test_families(name, numbers, tmp_path):
    model = tiny_model(families()[name], dtype="bfloat16")
    model.save_pretrained(tmp_path)
    layers = discover(model)
    found = expert_bytes(layers, tmp_path)
    # Some families keep some of their weights in float32: measured by the model itself, module by module.
    wide = next(layers[0].parts.experts.parameters()).element_size()
    assert first(found["loaded"][str(layers[0].layer)]) == wide * numbers
    stored = found.get("stored", {})
    assert stored
    assert all(found["loaded"][layer] == size for layer, size in stored.items())


def first(sizes):
    return sizes if isinstance(sizes, int) else sizes[0]


def test_identities_take_what_is_kept_for_them():
    model = tiny_model(families()["longcat_flash"])
    sizes = expert_bytes(discover(model), None)["loaded"]["0"]
    packed = 4 * 2 * H * N  # transformers keeps rows for all ten in gate and up, and eight in down
    assert sizes == [packed + 4 * H * N] * 8 + [packed] * 2


def test_what_cannot_be_told_apart_is_left_out():
    """Doge's experts are rows of two embeddings, in two modules."""
    assert expert_bytes(discover(tiny_model(families()["doge"])), None) == {}


def test_experts_of_different_sizes_are_listed():
    model = tiny_model(families()["switch_transformers"])
    layer = discover(model)[0]
    name, expert = next(iter(layer.parts.experts.named_children()))
    before = sum(p.numel() * p.element_size() for p in expert.parameters())
    layer.parts.experts.get_submodule(name).to(torch.float64)
    sizes = expert_bytes([layer], None)["loaded"][str(layer.layer)]
    assert sizes[0] == 2 * before
    assert set(sizes[1:]) == {before}


def test_the_sample_model_is_48_kib():
    from probes.sample import sample_path

    folder = sample_path() / "model"
    model, _ = load_model(folder)
    found = expert_bytes(discover(model), folder)
    assert {first(size) for size in found["loaded"].values()} == {48 * 1024}
    assert set(map(first, found["stored"].values())) <= {24 * 1024, 48 * 1024}
