"""What is asked and when it is right; and that a bad task is one line before anything runs."""

import json

import pytest

import probes
from probes.errors import ProbeError
from probes.evaluation.items import answer_of, encode_items, joint, read_items
from probes.sample import sample_path


def written(tmp_path, *lines):
    path = tmp_path / "tasks.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


@pytest.fixture(scope="module")
def sample():
    return probes.load_model(sample_path() / "model")


def test_answers_are_what_follows_the_thinking():
    assert answer_of("<think>2+0=2; 1+7=8</think>82 ") == "82"
    assert answer_of(" Mirn") == "Mirn"
    assert answer_of("<think>a</think>b</think>c") == "c"


@pytest.mark.parametrize(
    ("text", "target", "between"),
    [
        ("Answer:", "Mirn", " "),
        ("12+70=", "82", ""),
        ("a ", "b", ""),
        ("a\n", "b", ""),
        ("a", " b", ""),
        ("is", "b", " "),
    ],
)
def test_what_stands_between_text_and_target(text, target, between):
    assert joint(text, target, "auto") == between
    assert joint(text, target, "none") == ""
    assert joint(text, target, "space") == " "


def test_the_sample_tasks_have_the_ids_the_model_learned(sample):
    model, tokenizer = sample
    tasks = read_items([sample_path() / f"tasks/{name}.jsonl" for name in ("sums", "facts", "facts_choice")], 3)
    items = encode_items(tasks, model, tokenizer, max_new_tokens=48)
    total, fact, choice = items[0], items[3], items[6]
    assert (total.kind, total.answer) == ("answer", "82")
    assert tokenizer.decode(total.target) == total.prompt.target
    assert tokenizer.decode(fact.target) == " Mirn"
    assert choice.kind == "choice"
    assert [tokenizer.decode(c) for c in choice.continuations] == [" Mirn", " Hest", " Corvo", " Lunda"]
    assert choice.right_choice == 0


def test_text_alone_is_read_from_its_second_token(sample):
    model, tokenizer = sample
    prompts = read_items([sample_path() / "prompts.jsonl"], 1)
    (item,) = encode_items(prompts, model, tokenizer, max_new_tokens=48)
    assert item.kind == "text"
    assert len(item.before_target) == 1
    assert len(item.target) == len(item.ids) - 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"text": "a", "target": "b", "choices": ["b"]}, "at least two"),
        ({"text": "a", "target": "b", "choices": ["c", "d"]}, "not among"),
        ({"text": "a", "target": "b", "choices": ["b", "b"]}, "twice"),
        ({"text": "a", "target": ""}, "empty"),
        ({"text": "a", "target": 3}, "must be a string"),
        ({"txt": "a"}, "did you mean 'text'"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, said):
    path = written(tmp_path, {"text": "good", "target": "yes"}, line)
    with pytest.raises(ProbeError, match=f":2: .*{said}") as error:
        read_items([path])
    assert "\n" not in str(error.value)


def test_too_long_for_the_model(tmp_path, sample):
    model, tokenizer = sample
    path = written(tmp_path, {"text": "12+70=" * 60, "target": "yes"})
    with pytest.raises(ProbeError, match="do not fit the model's context of 256"):
        encode_items(read_items([path]), model, tokenizer, max_new_tokens=8)
