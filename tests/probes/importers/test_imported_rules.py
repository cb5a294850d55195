"""What a model config says of imported logits: how they become scores and a choice, or what is missing."""

import json

import numpy as np
import pytest

from probes.cli.main import main
from probes.errors import ProbeError
from probes.importers.npz import read_npz
from probes.importers.rules import import_rule
from store.trace import open_trace

T, E, K = 80, 16, 4


def save(tmp_path, **data):
    z = np.random.default_rng(0).normal(size=(T, 1, E)).astype(np.float32)
    path = tmp_path / "r.npz"
    np.savez(path, **{"logits": z, "sequence_id": np.zeros(T, int), **data})
    return path, z


def test_groups_limit_the_choice(tmp_path):
    """DeepSeek-V2 by hand: the two groups with the best expert, then the four best of these."""
    path, z = save(tmp_path, k=K)
    config = {"model_type": "deepseek_v2", "topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2}
    found = read_npz(path, config=config)
    differ = 0
    for row, ids in zip(z[:, 0], found.arrays.experts[:, 0], strict=True):
        groups = sorted(range(4), key=lambda g: -max(row[4 * g : 4 * g + 4]))[:2]
        allowed = [e for g in groups for e in range(4 * g, 4 * g + 4)]
        assert ids.tolist() == sorted(allowed, key=lambda e: -row[e])[:4]
        differ += set(ids.tolist()) != set(np.argsort(-row)[:4].tolist())
    assert differ > 40
    plain = read_npz(path, config={**config, "topk_method": "greedy"}).arrays.experts
    assert np.array_equal(plain, np.argsort(-z, 2)[..., :4])


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "deepseek_v3"}, "correction bias"),
        ({"model_type": "kimi_k2", "topk_method": "noaux_tc", "scoring_func": "sigmoid"}, "correction bias"),
        ({"model_type": "my_moe"}, "model_type 'my_moe'"),
        ({"n_group": 8, "topk_group": 4}, "without model_type"),
        ({"model_type": "switch_transformers"}, "drops tokens"),
        ({"model_type": "doge"}, "key sets"),
        ({"model_type": "deepseek_v2", "n_group": 4, "topk_group": 2}, "topk_method"),
        ({"model_type": "deepseek_v2", "n_group": 4, "topk_method": "group_limited_greedy"}, "topk_group"),
        ({"model_type": "mistral4", "n_group": 5, "topk_group": 2}, "16 experts do not make the config's 5 groups"),
        ({"model_type": "mistral4", "n_group": "four"}, "whole number"),
    ],
)
def test_logits_alone_are_refused_with_what_is_missing(tmp_path, config, words):
    path, _ = save(tmp_path, k=K)
    with pytest.raises(ProbeError) as error:
        read_npz(path, config=config)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("config", "stated", "scoring", "gating"),
    [
        ({}, None, "softmax", "softmax"),
        ({}, "sigmoid", "sigmoid", "sigmoid"),
        ({"_name_or_path": "x", "num_hidden_layers": 3}, None, "softmax", "softmax"),
        ({"model_type": "mixtral"}, None, "softmax", "softmax: softmax_topk"),
        ({"model_type": "qwen3_5_moe_text"}, None, "softmax", "softmax: softmax_topk"),
        ({"model_type": "deepseek_v3"}, None, "sigmoid", "sigmoid: sigmoid_bias"),
        ({"model_type": "deepseek_v4"}, None, "sqrtsoftplus", "sqrtsoftplus: sqrtsoftplus_bias"),
        ({"model_type": "deepseek_v4", "scoring_func": "sigmoid"}, None, "sigmoid", "sigmoid: sqrtsoftplus_bias"),
        ({"model_type": "my_moe"}, None, "unknown", "unknown"),
        ({"model_type": "my_moe"}, "sigmoid", "sigmoid", "sigmoid"),
        ({"model_type": "my_moe", "scoring_func": "sigmoid"}, None, "sigmoid", "sigmoid"),
        ({"model_type": "mixtral", "scoring_func": "sigmoid"}, None, "unknown", "unknown"),
        ({"n_group": 8, "topk_group": 4}, None, "unknown", "unknown"),
    ],
)
def test_the_scoring_of_a_config(config, stated, scoring, gating):
    rule = import_rule(config, stated, has_logits=True)
    assert (rule.scoring, rule.gating) == (scoring, gating)


def test_a_file_and_a_config_that_contradict_each_other_are_refused():
    with pytest.raises(ProbeError, match=r"gating 'softmax'.*sigmoid scores"):
        import_rule({"model_type": "deepseek_v3"}, "softmax", has_logits=True)


def test_without_a_config_a_note_says_what_is_assumed(tmp_path):
    assert "as softmax router logits" in read_npz(save(tmp_path, k=K)[0]).notes[0]
    assert not any("as softmax" in n for n in read_npz(save(tmp_path, k=K, gating=np.array("softmax"))[0]).notes)


def test_another_k_than_the_configs_gets_a_note(tmp_path):
    path, _ = save(tmp_path, k=K)
    config = {"model_type": "mixtral", "num_experts_per_tok": 2}
    assert "the file has k = 4, the model config 2 experts per token" in read_npz(path, config=config).notes
    assert len(read_npz(path, config=config | {"num_experts_per_tok": 4}).notes) == 1


def test_unknown_scoring_leaves_entropy_and_margin_empty_and_the_notes_are_stored(tmp_path, capsys):
    z = np.random.default_rng(0).normal(size=(T, 1, E))
    path, _ = save(tmp_path, logits=z, experts=np.sort(np.argsort(-z, 2)[..., :K], 2))
    config, out = tmp_path / "config.json", tmp_path / "t.duckdb"
    config.write_text('{"model_type": "my_moe"}', encoding="utf-8")
    arguments = ["import", "npz", str(path), "--out", str(out), "--model-config", str(config), "--json"]
    assert main(arguments) == 0
    said = capsys.readouterr()
    notes = json.loads(said.out)["notes"]
    assert len(notes) == 3
    for words, note in zip(("is not known", "put in order", "ids are the 4 largest"), notes, strict=True):
        assert words in note
        assert f"probe: {note}" in said.err
    trace = open_trace(out)
    counts = trace.sql("SELECT count(*) AS n, count(entropy) AS e, count(margin) AS m FROM routing").iloc[0].tolist()
    assert counts == [T, 0, 0]
    assert trace.sql("SELECT gating FROM layers")["gating"].tolist() == ["unknown"]
    assert json.loads(trace.sql("SELECT provenance FROM runs")["provenance"][0])["notes"] == notes
    assert main(["info", str(out)]) == 0
    shown = capsys.readouterr().out
    assert all(note in shown for note in notes)


def test_a_refused_mismatch_leaves_nothing_and_can_be_allowed(tmp_path, capsys):
    z = np.random.default_rng(0).normal(size=(T, 1, E))
    path, _ = save(tmp_path, logits=np.roll(z, 1, 0), experts=np.argsort(-z, 2)[..., :K])
    out = tmp_path / "t.duckdb"
    assert main(["import", "npz", str(path), "--out", str(out)]) == 1
    assert "next token" in capsys.readouterr().err
    assert not out.exists()
    assert main(["import", "npz", str(path), "--out", str(out), "--allow-mismatch"]) == 0
