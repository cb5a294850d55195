"""An encoder-decoder model: its encoder's layers over the prompt, its decoder's over what follows."""

from dataclasses import replace

import duckdb
import pytest
import torch

import probes
from probes.capture import discover
from probes.errors import ProbeError
from probes.families import family
from probes.families.tiny import tiny_model
from probes.generation import Decoding, distributions, generate
from probes.prompts import Prompt, Prompts
from probes.side_by_side import side_by_side

TEXTS = ("the quick brown fox jumps", "a", "SELECT name FROM items")


@pytest.fixture(scope="module")
def switch():
    """A random Switch Transformer whose generated text is not one token over and over."""
    one = family("switch_transformers")
    model = tiny_model(replace(one, tiny={**one.tiny, "vocab_size": 400}))
    torch.manual_seed(1)
    with torch.no_grad():
        model.lm_head.weight.normal_(0.0, 3.0)
        model.shared.weight.normal_(0.0, 3.0)
    return model


@pytest.fixture(scope="module", params=[(0, 1), (0, 3), (5, 1), (5, 3)], ids=str)
def recording(request, switch, tokenizer, tmp_path_factory):
    new, batch_size = request.param
    out = tmp_path_factory.mktemp("switch") / "t.duckdb"
    prompts = Prompts([Prompt(t, t, text=t) for t in TEXTS], [])
    done = probes.record(
        switch, prompts, out, tokenizer=tokenizer, progress=False, max_new_tokens=new, batch_size=batch_size
    )
    with duckdb.connect(str(out), read_only=True) as connection:
        tokens = connection.execute(
            "select sequence_id, position, token_id, phase, logprob, predicted_id from tokens order by 1, 2"
        ).fetchall()
        routing = connection.execute(
            "select layer, sequence_id, position, experts, missing_reason from routing order by 1, 2, 3"
        ).fetchall()
    return new, done, tokens, routing


def plain_routing(model, ids, decoder_ids):
    """layer -> the expert of each token it reads, by hooks on the routers of one plain pass."""
    seen = {}

    def hook(layer):
        return lambda module, args, output: seen.__setitem__(layer, module.classifier(args[0].float()).argmax(-1))

    handles = [found.parts.router.register_forward_hook(hook(found.layer)) for found in discover(model)]
    with torch.no_grad():
        given = {"input_ids": torch.tensor([ids]), "decoder_input_ids": torch.tensor([decoder_ids])}
        logits = model(**given).logits[0]
    for handle in handles:
        handle.remove()
    return {layer: experts.reshape(-1).tolist() for layer, experts in seen.items()}, logits.log_softmax(-1)


def test_each_part_has_the_tokens_it_read(recording, switch, tokenizer):
    new, _, tokens, routing = recording
    for number, text in enumerate(TEXTS):
        ids = tokenizer(text)["input_ids"]
        whole = [row[2] for row in tokens if row[0] == number]
        assert whole[: len(ids)] == ids
        written = whole[len(ids) :]
        assert written[0] == switch.config.decoder_start_token_id
        fed = written[:-1] if new else written
        expected, _ = plain_routing(switch, ids, fed)
        for found in discover(switch):
            rows = [row for row in routing if row[0] == found.layer and row[1] == number]
            assert len(rows) == len(whole)
            inside = rows[: len(ids)] if found.stream == "encoder" else rows[len(ids) : len(ids) + len(fed)]
            assert [row[3] for row in inside] == [[expert] for expert in expected[found.layer]]
            outside = [row for row in rows if row not in inside]
            assert all(row[3] is None and row[4] for row in outside)
            reasons = {row[4] for row in outside}
            if found.stream == "encoder":
                assert reasons == {"read by the decoder only"}
            else:
                last = {"last generated token: never fed to the model"} if new else set()
                assert reasons == {"read by the encoder only"} | last


def test_predictions_are_the_decoders(recording, switch, tokenizer):
    new, _, tokens, _ = recording
    for number, text in enumerate(TEXTS):
        ids = tokenizer(text)["input_ids"]
        rows = [row for row in tokens if row[0] == number]
        assert all(row[4] is None and row[5] is None for row in rows[: len(ids)])
        written = rows[len(ids) :]
        fed = written[:-1] if new else written
        _, log_p = plain_routing(switch, ids, [row[2] for row in fed])
        assert [row[5] for row in fed] == log_p.argmax(-1).tolist()
        for at, row in enumerate(fed[1:]):
            assert row[4] == pytest.approx(float(log_p[at, row[2]]), abs=1e-3)


def test_greedy_is_the_most_likely_token(recording):
    new, done, tokens, _ = recording
    if new:
        for number, text in enumerate(TEXTS):
            rows = [row for row in tokens if row[0] == number]
            start = next(i for i, row in enumerate(rows) if row[5] is not None)
            assert [row[2] for row in rows[start + 1 :]] == [row[5] for row in rows[start:-1]]
            assert len(rows) - start <= new + 1, text
    assert any("the decoder's for what follows" in note for note in done.notes)


def test_texts_that_go_on_with_their_prompt_are_refused(switch, tokenizer):
    for ask in (
        lambda: generate(switch, tokenizer, [[5, 6]], Decoding(2)),
        lambda: distributions(switch, tokenizer, [[5, 6]], [[7]]),
        lambda: side_by_side(switch, tokenizer, "a fox", ["ban:layer=1,expert=0"]),
    ):
        with pytest.raises(ProbeError, match="has an encoder and a decoder"):
            ask()
