"""Read or written: the phase of a token is told by who produced it, whatever the length of the pass it came in."""

import numpy as np
import pytest
import torch
from models import TOKENS, build, ids_of
from seen import received, same

import probes
from probes.capture import Want, capture
from probes.capture.stage import prompt_of
from probes.errors import ProbeError

PROMPT = ids_of([*TOKENS[:6], *TOKENS[:6]])  # repeats itself, so that a lookup in the prompt finds candidates
S = PROMPT.shape[1]
NEW = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
WANT = Want(norms=False)
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def model():
    return build("qwen3_moe")


def assistant():
    return build("qwen3_moe", seed=1)


MODES = {
    "plain": lambda model: {},
    "assistant": lambda model: {"assistant_model": assistant()},
    "itself as its assistant": lambda model: {"assistant_model": build("qwen3_moe")},
    "prompt lookup": lambda model: {"prompt_lookup_num_tokens": 3},
    "prefill in pieces": lambda model: {"prefill_chunk_size": 5},
    "prefill in pieces, the last of one token": lambda model: {"prefill_chunk_size": 11},
    "without a cache": lambda model: {"use_cache": False},
    "static cache": lambda model: {"cache_implementation": "static", "disable_compile": True},
    "beams": lambda model: {"num_beams": 3},
    "sampled": lambda model: {"do_sample": True},
}


def generate(model, mode, **settings):
    """(passes, what the experts received, what was written)."""
    with received(model) as calls, capture(model, WANT) as recorder:
        torch.manual_seed(0)
        made = model.generate(
            PROMPT, attention_mask=torch.ones_like(PROMPT), **{**NEW, **MODES[mode](model), **settings}
        )
        return recorder.take(), calls, made


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_a_token_is_decoded_if_the_model_wrote_it(model, mode):
    forwards, calls, _made = generate(model, mode)
    same(forwards, calls)
    for forward in forwards:
        assert (forward.decoded == (forward.position >= S)).all()
        each = {"prefill": [False], "decode": [True], "mixed": [False, True]}
        assert sorted(set(forward.decoded.ravel().tolist())) == each[forward.phase]
    positions = np.unique(np.concatenate([forward.position.ravel() for forward in forwards]))
    assert set(range(S + 7)) <= set(positions.tolist())


@torch.no_grad()
def test_the_passes_are_of_the_kinds_they_are_meant_to_test(model):
    """Else the test above would be of plain generation ten times."""
    phases = {mode: [f.phase for f in generate(model, mode)[0]] for mode in MODES}
    lengths = {mode: [f.length for f in generate(model, mode)[0]] for mode in MODES}
    assert phases["plain"] == ["prefill"] + ["decode"] * 7
    assert phases["prompt lookup"][0] == phases["assistant"][0] == "mixed"
    assert max(lengths["itself as its assistant"][1:]) > 1
    assert lengths["prefill in pieces"][:3] == [5, 5, 2]
    assert lengths["prefill in pieces, the last of one token"][:2] == [11, 1]
    assert phases["prefill in pieces, the last of one token"][:3] == ["prefill", "prefill", "decode"]
    assert lengths["without a cache"] == list(range(S, S + 8))


@pytest.mark.parametrize("mode", ["assistant", "itself as its assistant", "prompt lookup", "without a cache"])
@torch.no_grad()
def test_each_position_is_routed_as_in_one_pass_over_all(model, mode):
    """The last pass over a position is the one that counts: candidates that were not taken come before it."""
    forwards, _, made = generate(model, mode)
    last = {}
    for forward in forwards:
        for layer, routing in forward.routing.items():
            last |= {
                (layer, p): frozenset(e) for p, e in zip(forward.position[0], routing.experts.tolist(), strict=True)
            }
    with capture(model, WANT) as recorder:
        model(made)
        (whole,) = recorder.take()
    for layer, routing in whole.routing.items():
        for position in range(made.shape[1] - 1):
            assert last[layer, position] == frozenset(routing.experts[position].tolist())


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize("mode", [m for m in MODES if m != "beams"])
@torch.no_grad()
def test_a_ban_in_one_phase_acts_on_its_tokens_alone(model, mode, phase):
    with probes.steer(model, [f"force:layer=1,expert=5,phase={phase}"]):
        forwards, calls, _ = generate(model, mode)
    same(forwards, calls)
    for forward, (ids, _) in zip(forwards, calls[1], strict=True):
        inside = forward.decoded.ravel() if phase == "decode" else ~forward.decoded.ravel()
        assert (ids == 5).any(1)[inside].all()
    free = [
        sets for f, (ids, _) in zip(forwards, calls[1], strict=True) for sets in (ids == 5).any(1)[~_inside(f, phase)]
    ]
    assert not all(free)


def _inside(forward, phase):
    return forward.decoded.ravel() if phase == "decode" else ~forward.decoded.ravel()


@torch.no_grad()
def test_a_banned_expert_is_never_written_with(model):
    """The kind of the fault: candidates come several at once and were taken for a prompt."""
    with probes.steer(model, [f"ban:layer={layer},expert=3,phase=decode" for layer in (0, 1)]):
        forwards, calls, made = generate(model, "prompt lookup")
        plain = model.generate(PROMPT, attention_mask=torch.ones_like(PROMPT), **NEW)
    assert torch.equal(made, plain)
    used = [
        (ids == 3).any(1)[f.decoded.ravel()] for la in (0, 1) for f, (ids, _) in zip(forwards, calls[la], strict=True)
    ]
    assert not np.concatenate(used).any()


@torch.no_grad()
def test_what_acts_on_whole_passes_is_refused_in_a_mixed_one(model):
    words = "top_k acts on whole passes, and this one holds tokens that were read"
    with pytest.raises(ProbeError, match=words), probes.steer(model, ["top_k:k=1,phase=decode"]):
        generate(model, "prompt lookup")
    with probes.steer(model, ["top_k:k=1"]):
        forwards, _, _ = generate(model, "prompt lookup")
    assert {f.routing[1].experts.shape[1] for f in forwards} == {1}


@torch.no_grad()
def test_frequencies_are_of_what_was_read(model):
    with probes.steer(model, ["frequency_prune:alpha=3"]):
        forwards, _, _ = generate(model, "prompt lookup")
    first = forwards[0]
    assert first.phase == "mixed"
    empty = (first.routing[1].experts < 0).any(1)
    assert empty[~first.decoded.ravel()].any()
    assert not empty[first.decoded.ravel()].any()


@torch.no_grad()
def test_a_text_that_goes_on_from_a_cache_is_still_a_prompt(model):
    """A second turn: its prompt is one new token after cached ones."""
    cache = model(PROMPT[:, :-1], use_cache=True).past_key_values
    with capture(model, WANT) as recorder:
        model.generate(PROMPT, attention_mask=torch.ones_like(PROMPT), past_key_values=cache, **NEW)
        forwards = recorder.take()
    assert [f.length for f in forwards] == [1] * 8
    assert [f.phase for f in forwards] == ["prefill"] + ["decode"] * 7
    assert [f.position[0, 0] for f in forwards] == list(range(S - 1, S + 7))


@torch.no_grad()
def test_embeddings_as_a_prompt(model):
    with capture(model, WANT) as recorder:
        model.generate(inputs_embeds=model.model.embed_tokens(PROMPT), **NEW)
        forwards = recorder.take()
    assert [f.phase for f in forwards] == ["prefill"] + ["decode"] * 7


@torch.no_grad()
def test_outside_of_generate_one_token_after_others_is_written_unless_told(model):
    with capture(model, WANT) as recorder:
        for told in (None, S):
            cache = model(PROMPT[:, :3], use_cache=True).past_key_values
            if told is None:
                model(PROMPT[:, 3:4], past_key_values=cache)
                continue
            with prompt_of(model, told):
                model(PROMPT[:, 3:4], past_key_values=cache)
                model(torch.cat([PROMPT[:, 4:], PROMPT[:, :2]], 1), past_key_values=cache)
        forwards = recorder.take()
    assert [f.phase for f in forwards] == ["prefill", "decode", "prefill", "prefill", "mixed"]
    assert forwards[-1].decoded[0].tolist() == [False] * (S - 4) + [True] * 2


@torch.no_grad()
def test_an_encoder_decoder_model(model):
    model = build("switch_transformers")
    with capture(model, WANT) as recorder:
        model.generate(PROMPT, **NEW)
        forwards = recorder.take()
    assert [(f.stream, f.phase) for f in forwards] == [("encoder", "prefill"), ("mlp", "prefill")] + [
        ("mlp", "decode")
    ] * 7
    assert [f.position[0].tolist() for f in forwards[1:]] == [[n] for n in range(8)]


@torch.no_grad()
def test_decoding_strategies_write_what_they_write(model):
    from probes.interventions.decoding import decode

    for use_cache in (True, False):
        with capture(model, WANT) as recorder:
            decode(model, PROMPT, "ensemble:n=2", 4, use_cache=use_cache)
            forwards = recorder.take()
        for forward in forwards:
            assert (forward.decoded == (forward.position >= S)).all()


def test_a_recording_stores_the_phase_of_each_token(olmoe, tokenizer, tmp_path):
    import duckdb

    prompts = tmp_path / "p.txt"
    prompts.write_text("the quick brown fox")
    probes.record(olmoe, prompts, tmp_path / "t.duckdb", tokenizer=tokenizer, max_new_tokens=4, progress=False)
    read = len(tokenizer("the quick brown fox")["input_ids"])
    rows = duckdb.connect(str(tmp_path / "t.duckdb"), read_only=True)
    phases = rows.execute("SELECT phase FROM tokens ORDER BY position").fetchall()
    assert [phase for (phase,) in phases] == ["prefill"] * read + ["decode"] * 4
