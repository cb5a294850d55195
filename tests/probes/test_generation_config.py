"""A checkpoint's generation_config changes nothing that is written here, unless it is asked for by name."""

import copy
import json

import duckdb
import pytest
import torch
from transformers import GenerationConfig

import probes
from probes.errors import ProbeError, UsageError
from probes.evaluation.strategies import write as write_by_strategy
from probes.generation import Decoding, distributions, generate
from probes.generation_config import (
    BOOKKEEPING,
    OPTIONS,
    SPECIAL,
    generation_config,
    left_aside,
    option_texts,
    parse_options,
    used,
)
from probes.interventions.decoding import parse_strategy
from probes.prompts import Prompt, Prompts
from probes.side_by_side import side_by_side

NEW = 6
FIRST = 395  # the first token of the greedy text; the prompt holds it as well
PROMPT = "the quick brown fox jumps over the lazy dog, and the dog sleeps on."

# Every option that transformers has, with a value that is not the neutral one.
NOT_NEUTRAL = {
    "assistant_confidence_threshold": 0.9, "assistant_early_exit": 1, "assistant_ensemble_weight": 0.5,
    "assistant_lookbehind": 3, "bad_words_ids": [[FIRST]], "begin_suppress_tokens": [FIRST],
    "cache_implementation": "static", "constraints": ["x"], "continuous_batching_config": {"block_size": 4},
    "disable_compile": False, "diversity_penalty": 0.5, "do_sample": True, "dola_layers": "low",
    "early_stopping": True, "encoder_no_repeat_ngram_size": 2, "encoder_repetition_penalty": 1.5,
    "epsilon_cutoff": 0.5, "eta_cutoff": 0.5, "exponential_decay_length_penalty": [1, 9.0],
    "force_words_ids": [[FIRST]], "forced_bos_token_id": 7, "forced_eos_token_id": 9, "guidance_scale": 3.0,
    "is_assistant": True, "length_penalty": 3.0, "low_memory": True, "max_length": 3, "max_matching_ngram_size": 3,
    "max_time": 1e-9, "min_length": 40, "min_new_tokens": 40, "min_p": 0.9, "no_repeat_ngram_size": 1,
    "num_assistant_tokens": 3, "num_assistant_tokens_schedule": "heuristic", "num_beam_groups": 2, "num_beams": 3,
    "num_return_sequences": 2, "output_attentions": True, "output_hidden_states": True, "output_logits": True,
    "output_scores": True, "penalty_alpha": 0.6, "prefill_chunk_size": 2, "prompt_lookup_num_tokens": 2,
    "remove_invalid_values": True, "renormalize_logits": True, "repetition_penalty": 5.0,
    "return_dict_in_generate": True, "sequence_bias": [[[FIRST], -50.0]], "speculation_type": "dflash",
    "stop_strings": ["e", "o", "a", "t"], "suppress_tokens": [FIRST], "target_lookbehind": 3, "temperature": 0.1,
    "token_healing": True, "top_h": 0.3, "top_k": 4, "top_p": 0.2, "typical_p": 0.2, "use_cache": False,
    "use_mtp": True, "watermarking_config": {"bias": 50.0, "greenlist_ratio": 0.1},
}  # fmt: skip


@pytest.fixture
def model(olmoe):
    """The small model with a generation_config of its own to be spoiled."""
    before = copy.deepcopy(olmoe.generation_config)
    yield olmoe
    olmoe.generation_config = before


def greedy(model, ids: list[int], new: int, ends: set[int]) -> list[int]:
    """The most likely tokens, one plain forward pass of everything for each; nothing of transformers' generation."""
    written = list(ids)
    with torch.no_grad():
        for _ in range(new):
            written.append(int(model(input_ids=torch.tensor([written]), use_cache=False).logits[0, -1].argmax()))
            if written[-1] in ends:
                break
    return written[len(ids) :]


def recorded(model, tokenizer, folder, **settings):
    """(the new tokens of a recording, its provenance, its notes)."""
    out = folder / "t.duckdb"
    done = probes.record(
        model, Prompts([Prompt("p", "p", text=PROMPT)], []), out, tokenizer=tokenizer, progress=False,
        max_new_tokens=NEW, capture="ids,predictions", **settings,
    )  # fmt: skip
    with duckdb.connect(str(out), read_only=True) as connection:
        rows = connection.execute("select token_id from tokens order by position").fetchall()
        (provenance,) = connection.execute("select provenance from runs").fetchone()
    return [row[0] for row in rows[len(tokenizer(PROMPT)["input_ids"]) :]], json.loads(provenance), done.notes


def test_every_option_of_transformers_is_tried():
    known = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
    assert known == {*NOT_NEUTRAL, *SPECIAL, *BOOKKEEPING}


@pytest.mark.parametrize("name", NOT_NEUTRAL)
def test_greedy_whatever_the_checkpoint_says(model, tokenizer, tmp_path, name):
    ids = tokenizer(PROMPT)["input_ids"]
    right = greedy(model, ids, NEW, {model.generation_config.eos_token_id})
    setattr(model.generation_config, name, NOT_NEUTRAL[name])
    tokens, provenance, notes = recorded(model, tokenizer, tmp_path)
    assert tokens == right
    assert provenance["generation"]["mode"] == "greedy"
    assert provenance["generation"]["options"] == {}
    assert name in left_aside(model) or name == "disable_compile"
    assert name == "disable_compile" or any(name in note for note in notes)
    ends = {*used(generation_config(model, max_new_tokens=1))["eos_token_ids"], tokenizer.eos_token_id}
    text = greedy(model, ids, NEW, ends)
    assert generate(model, tokenizer, [ids], Decoding(NEW))[0].ids.tolist() == text
    plain = write_by_strategy(model, tokenizer, [ids], Decoding(NEW), parse_strategy("plain"))
    assert plain[0].ids.tolist() == text
    read = distributions(model, tokenizer, [ids], [text], stepwise=True)[0]
    assert read.argmax(-1).tolist() == text


@pytest.mark.parametrize("name", ["repetition_penalty", "bad_words_ids", "forced_eos_token_id", "max_time", "min_p"])
def test_side_by_side_is_greedy_too(model, tokenizer, tmp_path, name):
    ids = tokenizer(PROMPT)["input_ids"]
    right = greedy(model, ids, NEW, {model.generation_config.eos_token_id})
    setattr(model.generation_config, name, NOT_NEUTRAL[name])
    out = tmp_path / "both.duckdb"
    found = side_by_side(model, tokenizer, PROMPT, ["ban:layer=1,expert=0"], decoding=Decoding(NEW), trace=str(out))
    assert found.baseline.ids == right
    assert found.generation["checkpoint_options_not_used"].keys() == {name}
    assert name in found.notes[0]


@pytest.mark.parametrize("name", ["repetition_penalty", "no_repeat_ngram_size", "bad_words_ids", "suppress_tokens"])
def test_the_trap_is_real(model, tokenizer, name):
    """What transformers does with the same checkpoint: without this the tests above could not fail."""
    ids = tokenizer(PROMPT)["input_ids"]
    right = greedy(model, ids, NEW, set())
    spoiled = NOT_NEUTRAL[name]
    if name in ("bad_words_ids", "suppress_tokens"):
        spoiled = [[right[0]]] if name == "bad_words_ids" else [right[0]]
    setattr(model.generation_config, name, spoiled)
    filled = model.generate(torch.tensor([ids]), generation_config=GenerationConfig(max_new_tokens=NEW))
    assert filled[0, len(ids) :].tolist() != right
    assert generate(model, tokenizer, [ids], Decoding(NEW))[0].ids.tolist() == right


def test_end_tokens_stay_the_checkpoints(model, tokenizer, tmp_path):
    ids = tokenizer(PROMPT)["input_ids"]
    right = greedy(model, ids, NEW, set())
    model.generation_config.eos_token_id = [right[2], 5]
    tokens, provenance, _ = recorded(model, tokenizer, tmp_path)
    assert tokens == right[: right.index(right[2]) + 1]
    assert provenance["generation"]["eos_token_ids"] == [right[2], 5]
    assert provenance["generation"]["max_new_tokens"] == NEW


def test_the_models_own_config_is_left_as_it_was(model, tokenizer):
    model.generation_config.repetition_penalty = 1.7
    before = model.generation_config.to_dict()
    generate(model, tokenizer, [[5, 6, 7]], Decoding(3))
    assert model.generation_config.to_dict() == before


def test_an_option_that_is_asked_for_is_used_and_stored(model, tokenizer, tmp_path):
    ids = tokenizer(PROMPT)["input_ids"]
    plain = greedy(model, ids, NEW, set())
    tokens, provenance, _ = recorded(model, tokenizer, tmp_path, generation={"suppress_tokens": [plain[0]]})
    assert tokens[0] == _second_best(model, ids)
    assert plain[0] not in tokens
    assert provenance["generation"]["options"] == {"suppress_tokens": [plain[0]]}
    asked = Decoding(NEW, options=(f"suppress_tokens=[{plain[0]}]",))
    assert generate(model, tokenizer, [ids], asked)[0].ids.tolist()[0] == tokens[0]


def _second_best(model, ids):
    with torch.no_grad():
        return int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].topk(2).indices[1])


@pytest.mark.parametrize("name", sorted(set(NOT_NEUTRAL) - set(OPTIONS)))
def test_what_cannot_be_honoured_is_refused_by_name(name):
    with pytest.raises(UsageError, match=rf"\b{name}\b"):
        parse_options({name: NOT_NEUTRAL[name]})


def test_wrong_options_are_one_line(model, tokenizer, tmp_path):
    for texts, said in (
        (["repetition_penalty"], "must look like"),
        (["repetition_penalti=2"], "did you mean 'repetition_penalty'"),
        (["repetition_penalty=much"], "is not JSON"),
        (["repetition_penalty=null"], "null is no value"),
        (["min_p=0.1"], "sampled tokens only"),
    ):
        with pytest.raises(UsageError, match=said):
            Decoding(options=tuple(texts)).checked()
    with pytest.raises(UsageError, match="repetition_penalty"):
        generate(model, tokenizer, [[5, 6]], Decoding(3, options=('repetition_penalty="x"',)))
    with pytest.raises(UsageError, match="--max-new-tokens"):
        probes.record(
            model, Prompts([], []), tmp_path / "t.duckdb", tokenizer=tokenizer, generation=["repetition_penalty=2"]
        )


def test_options_read_back():
    given = {"repetition_penalty": 1.2, "bad_words_ids": [[5], [6, 7]]}
    assert parse_options(option_texts(given)) == given


def test_sampling_takes_its_cuts_by_name_and_no_other(model, tokenizer):
    """One token is left by min_p=1, so what is sampled under it is the most likely."""
    ids = tokenizer(PROMPT)["input_ids"]
    right = greedy(model, ids, NEW, {model.generation_config.eos_token_id, tokenizer.eos_token_id})
    drawn = Decoding(NEW, sample=True, temperature=5.0, options=("min_p=1.0",))
    assert generate(model, tokenizer, [ids], drawn)[0].ids.tolist() == right
    free = Decoding(NEW, sample=True, temperature=5.0, seed=3)
    before = generate(model, tokenizer, [ids], free)[0].ids.tolist()
    model.generation_config.min_p = 1.0
    assert generate(model, tokenizer, [ids], free)[0].ids.tolist() == before != right


def test_a_model_that_writes_nothing_is_refused(model, tokenizer, tmp_path):
    with pytest.raises(ProbeError, match="does not generate text"):
        recorded(model.model, tokenizer, tmp_path)
    with pytest.raises(ProbeError, match="no language model's head"):
        distributions(model.model, tokenizer, [[5, 6]], [[7]])


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT 0.21 asks transformers for it
def test_a_wrapped_model_is_greedy_too(model, tokenizer):
    """PEFT's `generate` hands the checkpoint's own generation_config to the model inside."""
    peft = pytest.importorskip("peft")
    ids = tokenizer(PROMPT)["input_ids"]
    right = greedy(model, ids, NEW, {model.generation_config.eos_token_id, tokenizer.eos_token_id})
    inner = copy.deepcopy(model)
    inner.generation_config.repetition_penalty = 5.0
    wrapped = peft.get_peft_model(inner, peft.LoraConfig(r=2, target_modules=["q_proj"])).eval()
    assert generate(wrapped, tokenizer, [ids], Decoding(NEW))[0].ids.tolist() == right
    assert left_aside(wrapped) == {"repetition_penalty": 5.0}


def test_a_harness_request_asks_for_options_by_name(model, tokenizer):
    from probes.evaluation.arms import Arm
    from probes.harness import Requests

    requests = Requests(model, tokenizer, Arm("baseline"), 4)
    neutral = {"until": ["x"], "do_sample": False, "temperature": 0.0, "num_beams": 1, "top_k": 5, "min_p": None}
    assert requests._decoding(neutral).options == ()
    assert requests._decoding({"repetition_penalty": 1.3}).options == ("repetition_penalty=1.3",)
    with pytest.raises(UsageError, match="num_beams cannot be honoured"):
        requests._decoding({"num_beams": 4})


def test_evaluated_answers_are_greedy_and_say_how_they_were_written(tmp_path):
    from probes.sample import sample_path

    model, tokenizer = probes.load_model(sample_path() / "model", dtype="float32")
    ask = {"tokenizer": tokenizer, "limit": 6}
    tasks = [sample_path() / "tasks" / "sums.jsonl"]
    before = probes.evaluate(model, tasks, **ask)
    model.generation_config.repetition_penalty = 5.0
    after = probes.evaluate(model, tasks, **ask)
    assert [item["output"] for item in after.items] == [item["output"] for item in before.items]
    assert after.settings["generation"]["checkpoint_options_not_used"] == {"repetition_penalty": 5.0}
    assert any("repetition_penalty" in note for note in after.notes)
    asked = probes.evaluate(model, tasks, generation=["repetition_penalty=5.0"], **ask)
    assert [item["output"] for item in asked.items] != [item["output"] for item in before.items]
    with pytest.raises(UsageError, match=r"repetition_penalty=5\.0 cannot be honoured by the decoding strategy"):
        probes.evaluate(model, tasks, ["ensemble:n=2"], generation=["repetition_penalty=5.0"], **ask)


def test_a_strategy_samples_where_that_is_asked_for_and_refuses_the_rest(model, tokenizer):
    plan = parse_strategy("plain")
    texts = [
        write_by_strategy(model, tokenizer, [[5, 6, 7]], Decoding(8, sample=True, temperature=9.0, seed=s), plan)[0].ids
        for s in (1, 1, 2)
    ]
    first, same, other = (text.tolist() for text in texts)
    assert first == same != other
    for refused in (Decoding(3, options=("repetition_penalty=2",)), Decoding(3, sample=True, top_p=0.5)):
        with pytest.raises(UsageError, match="cannot honour"):
            write_by_strategy(model, tokenizer, [[5, 6, 7]], refused, plan)
