"""Side by side: what the comparison says agrees with separate runs of the same."""

import json

import pytest
import torch

import probes
from probes.cli.main import main
from probes.errors import UsageError
from probes.generation import Decoding
from probes.sample import sample_path
from probes.side_by_side import side_by_side

BAN = "ban:expert=3.14+3.5+3.10+2.7"
PROMPT = "47+35="
SHORT = Decoding(40, ("\n",))
MODEL = str(sample_path() / "model")


@pytest.fixture(scope="module")
def sample():
    return probes.load_model(MODEL, dtype="float32")


@pytest.fixture(scope="module")
def found(sample):
    return side_by_side(*sample, PROMPT, [BAN], decoding=SHORT)


def test_both_texts(sample, found):
    model, tokenizer = sample
    assert found.baseline.text == "<think>7+5=12 carry 1; 4+3+1=8</think>82"
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    with probes.steer(model, [BAN]):
        steered = model.generate(ids, max_new_tokens=len(found.steered.ids), do_sample=False)
    assert steered[0, ids.shape[1] :].tolist() == found.steered.ids
    assert found.steered.text != found.baseline.text


def test_differences_turn_one_text_into_the_other(found):
    tokens = list(found.baseline.tokens)
    for one in reversed(found.differences):
        tokens[slice(*one.baseline_span)] = found.steered.tokens[slice(*one.steered_span)]
    assert tokens == found.steered.tokens


def test_probabilities_belong_to_the_baselines_tokens(sample, found):
    model, tokenizer = sample
    start = tokenizer(PROMPT).input_ids
    ids = torch.tensor([start + found.baseline.ids])
    assert [t.token_id for t in found.tokens] == ids[0].tolist()
    assert [t.generated for t in found.tokens] == [False] * len(start) + [True] * len(found.baseline.ids)
    for steered, name in ((False, "logprob"), (True, "steered_logprob")):
        with probes.steer(model, [BAN] if steered else []), torch.no_grad():
            log_p = model(ids).logits[0].log_softmax(-1)
        expected = log_p[:-1].gather(1, ids[0, 1:, None])[:, 0]
        assert torch.allclose(torch.tensor([getattr(t, name) for t in found.tokens[1:]]), expected, atol=1e-3)
    assert found.tokens[0].kl is None
    assert found.mean_kl(generated=True) > 0.01
    assert found.logprob_change(generated=True) < 0


def test_experts_that_were_banned_have_lost_all(found):
    lost = {(one.layer, one.expert): one for one in found.experts}
    for layer, expert in ((3, 14), (3, 5), (3, 10), (2, 7)):
        if (layer, expert) in lost:
            assert lost[layer, expert].steered == 0
    assert lost[3, 14].baseline > 0
    gains = sum(one.change for one in found.experts)
    assert gains == 0  # every slot that someone lost, someone else got
    layers = {one.layer: one for one in found.layers}
    assert layers[0].changed == layers[1].changed == 0 < layers[3].changed
    assert layers[3].changed == sum(3 in (t.changed_layers or []) for t in found.tokens)
    # The last token was written but never fed.
    assert found.tokens[-1].changed_layers is None
    assert layers[3].n_tokens == len(found.tokens) - 1


def test_what_changes_nothing_changes_nothing(sample):
    same = side_by_side(*sample, PROMPT, ["boost:layer=1,expert=3,factor=1"], decoding=SHORT)
    assert same.differences == []
    assert same.changed_share == 0
    assert same.experts == []
    assert {t.kl for t in same.tokens} == {None, 0.0}


def test_decoding_alone_leaves_the_prompt_as_it_is(sample):
    only = side_by_side(*sample, PROMPT, ["random:phase=decode"], decoding=SHORT)
    assert only.mean_kl(generated=False) == 0
    assert only.mean_kl(generated=True) > 0.1
    fed = [t for t in only.tokens if t.changed_layers is not None]
    assert not any(t.changed_layers for t in fed if not t.generated)
    assert any(t.changed_layers for t in fed if t.generated)


def test_steps_are_told(sample):
    told = []
    side_by_side(*sample, PROMPT, [BAN], decoding=Decoding(5), on_step=lambda which, text: told.append((which, text)))
    assert [which for which, _ in told] == ["baseline"] * 5 + ["steered"] * 5
    assert told[4][1].startswith("<think>")


def test_mistakes_are_said_before_anything_is_written(sample):
    told = []
    for wrong, said in (([], "no intervention"), (["ban:layer=7,expert=1"], "layer 7 has no router")):
        with pytest.raises(UsageError, match=said):
            side_by_side(*sample, PROMPT, wrong, on_step=lambda *a: told.append(a))
    assert told == []


def test_the_command(capsys):
    words = ["steer", MODEL, "--prompt", PROMPT, "--intervention", BAN, "--max-new-tokens", "40", "--stop", "\\n"]
    assert main(words) == 0
    said = capsys.readouterr()
    assert "</think>82" in said.out
    assert "of (token, layer) went to another set of experts" in said.out
    assert "3.14 (" in said.out
    assert said.err == ""
    assert main([*words, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["baseline"]["text"].endswith("</think>82")
    assert data["interventions"][0]["name"] == "ban"
    assert {"changed_share", "mean_kl", "logprob_change", "layers", "experts", "differences"} <= data.keys()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--prompt", "x"], "required: --intervention"),
        (["--prompt", "", "--intervention", "random"], "the prompt is empty"),
        (["--prompt", "x", "--intervention", "npmi:label=sums"], "say which one (--from TRACE)"),
        (["--prompt", "x", "--intervention", "random", "--max-new-tokens", "300"], "do not fit"),
        (["--prompt", "x", "--intervention", "random", "--seed", "3"], "--seed is of drawn tokens"),
        (["--prompt", "x", "--intervention", "random", "--temperature", "0"], "--temperature must be above 0"),
        (
            ["--prompt", "x", "--intervention", "random", "--temperature", "1", "--out", "t.duckdb"],
            "cannot be recorded",
        ),
        (["--prompt", "x", "--chat", "--intervention", "random"], "no chat template"),
    ],
)
def test_mistakes_on_the_command_line(words, said, capsys):
    assert main(["steer", MODEL, *words]) in (1, 2)
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_both_runs_are_in_the_trace(sample, tmp_path, capsys):
    out = tmp_path / "both.duckdb"
    found = side_by_side(*sample, PROMPT, [BAN], decoding=SHORT, trace=str(out))
    runs = probes.open_trace(out).runs().set_index("run_id")
    assert runs["name"].to_dict() == {found.baseline_run_id: "baseline", found.steered_run_id: "steered"}
    steered = runs.loc[found.steered_run_id]
    assert steered["baseline_run_id"] == found.baseline_run_id
    kept = steered["intervention"]
    assert (json.loads(kept) if isinstance(kept, str) else kept) == found.interventions
    tokens = probes.open_trace(out).sql("SELECT run_id, token_id FROM tokens ORDER BY run_id, position")
    start = sample[1](PROMPT).input_ids
    for run, side in ((found.baseline_run_id, found.baseline), (found.steered_run_id, found.steered)):
        assert tokens[tokens["run_id"] == run]["token_id"].tolist() == start + side.ids
    counts = probes.analyze(out, "load", run_id=found.steered_run_id).set_index(["layer", "expert"])["count"]
    assert counts[3, 14] == 0
