"""Logits that nobody needs are not computed; those of predictions are, in pieces, and the numbers stay."""

from dataclasses import replace

import duckdb
import numpy as np
import pytest
import torch

import probes
from probes.capture import head, predictions
from probes.capture.head import SplitHead, last_only, takes_logits_to_keep
from probes.families import families
from probes.families.tiny import tiny_model
from probes.generation import distributions
from probes.prompts import Prompt, Prompts

TEXTS = ("the quick brown fox jumps over the lazy dog", "SELECT name FROM items", "12+34=46")


@pytest.fixture
def always(monkeypatch):
    """Every pass of more than one position is large, and a piece is two rows."""
    monkeypatch.setattr(head, "LARGE", 1)
    monkeypatch.setattr(head, "PIECE", 2 * 4 * 400)
    monkeypatch.setattr("probes.generation.LARGE", 1)


def recorded(model, tokenizer, folder, name="t", **settings):
    out = folder / f"{name}.duckdb"
    prompts = Prompts([Prompt(text, text, text=text) for text in TEXTS], [])
    done = probes.record(model, prompts, out, tokenizer=tokenizer, progress=False, **settings)
    with duckdb.connect(str(out), read_only=True) as connection:
        rows = connection.execute(
            "select sequence_id, token_id, logprob, predicted_id from tokens order by sequence_id, position"
        ).fetchall()
    return {s: [row[1:] for row in rows if row[0] == s] for s in range(len(TEXTS))}, done


def expected(model, ids):
    """(ln p of every token, most likely next token) by a plain pass of the whole sequence."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()
    log_p = logits.log_softmax(-1)
    return [None, *log_p[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()], logits.argmax(-1).tolist()


@pytest.mark.parametrize("new", [0, 4])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_predictions_in_pieces_are_those_of_a_plain_pass(olmoe, tokenizer, tmp_path, always, new, batch_size):
    rows, _ = recorded(olmoe, tokenizer, tmp_path, max_new_tokens=new, batch_size=batch_size)
    for sequence in rows.values():
        ids = [token for token, _, _ in sequence]
        logprob, predicted = expected(olmoe, ids)
        assert [row[1] for row in sequence][:1] == [None]
        fed = len(ids) - bool(new)  # the last new token was never fed
        np.testing.assert_allclose([row[1] for row in sequence][1:fed], logprob[1:fed], rtol=1e-5, atol=1e-5)
        assert [row[2] for row in sequence][:fed] == predicted[:fed]


@pytest.mark.parametrize("capture", ["ids,weights", "ids,predictions"])
@pytest.mark.parametrize("new", [0, 3])
def test_the_head_never_makes_all_logits_at_once(olmoe, tokenizer, tmp_path, always, capture, new):
    shapes = []
    watch = olmoe.lm_head.register_forward_hook(lambda module, args, output: shapes.append(tuple(output.shape[:-1])))
    try:
        recorded(olmoe, tokenizer, tmp_path, max_new_tokens=new, capture=capture, batch_size=3)
    finally:
        watch.remove()
    whole = [shape for shape in shapes if shape[0] == len(TEXTS)]  # the self-test's pass is one sequence
    assert whole
    assert all(shape == (len(TEXTS), 1) for shape in whole)
    assert all(shape[0] <= 2 for shape in shapes if len(shape) == 1)
    assert not olmoe.lm_head._forward_pre_hooks


def test_small_passes_are_left_to_the_model(olmoe, tokenizer, tmp_path, monkeypatch):
    plain, _ = recorded(olmoe, tokenizer, tmp_path, "plain", batch_size=3)
    monkeypatch.setattr(head.SplitHead, "pieces", lambda *_: pytest.fail("a small pass was cut"))
    again, _ = recorded(olmoe, tokenizer, tmp_path, "again", batch_size=3)
    assert again == plain


@pytest.mark.parametrize(
    ("name", "settings"),
    [("gemma4", {"final_logit_softcapping": 2.0}), ("granitemoe", {"logits_scaling": 4.0})],
)
def test_a_head_whose_logits_are_changed_afterwards_is_left_alone(tokenizer, tmp_path, always, name, settings):
    family = families()[name]
    model = tiny_model(replace(family, tiny={**family.tiny, "vocab_size": 400, **settings}))
    assert not SplitHead(model).plain
    rows, _ = recorded(model, tokenizer, tmp_path, batch_size=1)
    for sequence in rows.values():
        logprob, _ = expected(model, [token for token, _, _ in sequence])
        np.testing.assert_allclose([row[1] for row in sequence][1:], logprob[1:], rtol=1e-4, atol=1e-4)


def test_routing_is_the_same_without_logits(olmoe, tokenizer, tmp_path):
    for name, capture in (("with", "ids,weights,logits,predictions"), ("without", "ids,weights,logits")):
        recorded(olmoe, tokenizer, tmp_path, name, capture=capture, batch_size=2)
    with duckdb.connect(str(tmp_path / "with.duckdb"), read_only=True) as connection:
        connection.execute(f"attach '{tmp_path / 'without.duckdb'}' as other (read_only)")
        columns = "run_id, sequence_id, layer, position, experts, weights, entropy, margin"
        differ = connection.execute(
            f"select count(*) from (select {columns} from routing except select {columns} from other.routing)"
        ).fetchone()
    assert differ == (0,)


def test_a_model_without_a_head_says_why_predictions_are_missing(tokenizer, tmp_path):
    from transformers import AutoModelForTokenClassification

    family = families()["openai_privacy_filter"]
    config = tiny_model(replace(family, tiny={**family.tiny, "vocab_size": 400})).config
    for model in (AutoModelForTokenClassification.from_config(config).eval(), tiny_model(family)):
        if model.get_input_embeddings().num_embeddings < 400:
            model.resize_token_embeddings(400)
        rows, done = recorded(model, tokenizer, tmp_path, type(model).__name__)
        assert all(row[1] is None and row[2] is None for sequence in rows.values() for row in sequence)
        assert any("predictions are missing" in note for note in done.notes)


def test_given_texts_are_read_alike_with_fewer_logits(olmoe, tokenizer, monkeypatch):
    prompts = [tokenizer(text)["input_ids"] for text in TEXTS]
    targets = [[5, 6, 7], [8], [9, 10]]
    whole = distributions(olmoe, tokenizer, prompts, targets)
    shapes = []
    watch = olmoe.lm_head.register_forward_hook(lambda module, args, output: shapes.append(output.shape[1]))
    monkeypatch.setattr("probes.generation.LARGE", 1)
    try:
        few = distributions(olmoe, tokenizer, prompts, targets)
    finally:
        watch.remove()
    longest = max(len(p) + len(t) for p, t in zip(prompts, targets, strict=True))
    assert shapes == [longest - min(map(len, prompts)) + 1]
    for a, b in zip(whole, few, strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_who_takes_logits_to_keep(olmoe):
    assert last_only(olmoe) == {"logits_to_keep": 1}
    assert not takes_logits_to_keep(olmoe.model)
    assert last_only(olmoe.model) == {}
    assert predictions.Predictions(olmoe).why_not == ""
