"""What a prompt line says of a conversation reaches the chat template, in recording, evaluation and steering alike."""

import copy
import json

import duckdb
import pytest

import probes
from probes.errors import ProbeError
from probes.evaluation.items import encode_items, read_items
from probes.generation import Decoding
from probes.prompts import key_notes, prompt_from_record, read_prompts
from probes.side_by_side import side_by_side

TEMPLATE = (
    "{% if tools %}T{{ tools|tojson }}{% endif %}"
    "{% if documents %}D{{ documents|tojson }}{% endif %}"
    "{% for m in messages %}[{{ m.role }}]{{ m.content or '' }}"
    "{{ m.tool_calls|tojson if m.tool_calls else '' }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
    "{% if enable_thinking is false %}<think></think>{% endif %}"
)
LOOPING = (
    "{% for message in messages %}{% for part in message['content'] %}({{ part['text'] }}){% endfor %}{% endfor %}"
)
HI = [{"role": "user", "content": "hi"}]
CALL = [{"type": "function", "function": {"name": "f", "arguments": {}}}]
LINES = [
    ({"messages": HI, "tools": CALL}, "T" + json.dumps(CALL) + "[user]hi"),
    ({"messages": HI, "documents": [{"title": "a"}]}, 'D[{"title": "a"}][user]hi'),
    ({"messages": HI, "chat_template_kwargs": {"enable_thinking": False}}, "[user]hi<think></think>"),
    ({"messages": [*HI, {"role": "assistant", "tool_calls": CALL}]}, "[user]hi[assistant]" + json.dumps(CALL)),
    (
        {"messages": [*HI, {"role": "assistant", "content": None, "tool_calls": CALL}]},
        "[user]hi[assistant]" + json.dumps(CALL),
    ),
    ({"messages": HI, "add_generation_prompt": True}, "[user]hi[assistant]"),
    (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]},
        "[user]ab",
    ),
]


@pytest.fixture
def chatty(tokenizer):
    """The tokenizer with a chat template of its own."""
    other = copy.deepcopy(tokenizer)
    other.chat_template = TEMPLATE
    return other


def write(path, *lines):
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def texts(model, tokenizer, folder, *lines, **settings):
    out = folder / "t.duckdb"
    done = probes.record(
        model, write(folder / "p.jsonl", *lines), out, tokenizer=tokenizer, progress=False, capture="ids", **settings
    )
    with duckdb.connect(str(out), read_only=True) as connection:
        rows = connection.execute("select text from sequences order by sequence_id").fetchall()
    return [row[0] for row in rows], done


def test_every_key_reaches_the_template(olmoe, chatty, tmp_path):
    found, done = texts(olmoe, chatty, tmp_path, *(line for line, _ in LINES))
    assert found == [text for _, text in LINES]
    assert not done.left_out


def test_a_reply_is_opened_where_one_follows_unless_the_line_says_otherwise(olmoe, chatty, tmp_path):
    lines = [{"messages": HI}, {"messages": HI, "add_generation_prompt": False}]
    assert texts(olmoe, chatty, tmp_path, *lines, max_new_tokens=2)[0] == ["[user]hi[assistant]", "[user]hi"]


def test_evaluation_reads_the_same_and_opens_the_reply(olmoe, chatty, tmp_path):
    line = {"messages": HI, "tools": CALL, "chat_template_kwargs": {"enable_thinking": False}}
    opened = "T" + json.dumps(CALL) + "[user]hi[assistant]<think></think>"
    for more, text in (
        ({"target": "yes"}, opened),
        ({"target": "yes", "choices": ["yes", "no"]}, opened),
        ({}, opened.replace("[assistant]", "")),
    ):
        tasks = read_items([write(tmp_path / "task.jsonl", {**line, **more})])
        (item,) = encode_items(tasks, olmoe, chatty, max_new_tokens=4)
        assert chatty.decode(item.ids) == text


def test_steering_reads_the_same(olmoe, chatty):
    prompt = prompt_from_record({"messages": HI, "tools": CALL}, "here", "p")
    found = side_by_side(olmoe, chatty, prompt, ["ban:layer=1,expert=0"], decoding=Decoding(2))
    assert found.prompt == "T" + json.dumps(CALL) + "[user]hi[assistant]"


def test_a_template_that_goes_through_parts_gets_them(olmoe, chatty, tmp_path):
    chatty.chat_template = LOOPING
    assert texts(olmoe, chatty, tmp_path, LINES[-1][0])[0] == ["(a)(b)"]


def test_a_template_gets_the_variables_it_is_given(olmoe, chatty, tmp_path):
    chatty.chat_template = "{{ messages[0].content }}{{ mood }}"
    line = {"messages": HI, "chat_template_kwargs": {"mood": "!"}}
    assert texts(olmoe, chatty, tmp_path, line)[0] == ["hi!"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"messages": HI, "tools": "f"}, '"tools" must be a list'),
        ({"messages": HI, "tools": ["f"]}, '"tools" must be a list of objects'),
        ({"messages": HI, "documents": {}}, '"documents" must be a list'),
        ({"messages": HI, "chat_template_kwargs": [1]}, '"chat_template_kwargs" must be an object'),
        ({"messages": HI, "chat_template_kwargs": {"tokenize": True}}, "cannot set 'tokenize'"),
        ({"messages": HI, "add_generation_prompt": "yes"}, '"add_generation_prompt" must be true or false'),
        ({"messages": [{"role": "assistant"}]}, 'or have "tool_calls"'),
        ({"messages": [{"role": "user", "content": 3}]}, "neither text nor a list of parts"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "a part of type 'image'"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "a part that is no text"),
    ],
)
def test_a_conversation_that_cannot_be_used_is_named(tmp_path, line, reason):
    found = read_prompts(write(tmp_path / "p.jsonl", {"text": "good"}, line))
    (bad,) = found.bad
    assert reason in bad.reason


def test_unknown_keys_are_named_once_each(olmoe, chatty, tmp_path):
    lines = [{"text": "a", "lable": "x"}, {"text": "b", "lable": "y", "odd": 1}, {"text": "c", "tools": CALL}]
    _, done = texts(olmoe, chatty, tmp_path, *lines)
    said = [note for note in done.notes if note.startswith("the key")]
    file = tmp_path / "p.jsonl"
    assert said == [
        f"the key \"lable\" is not known and not used in 2 prompts, first {file}:1 (did you mean 'label'?)",
        f'the key "odd" is not known and not used in 1 prompt, first {file}:2',
        f'the key "tools" is not used in 1 prompt, first {file}:3: it belongs to "messages"',
    ]
    assert key_notes(read_prompts(write(tmp_path / "q.jsonl", {"text": "a", "label": "x", "id": "i"})).good) == []


def test_unknown_keys_are_named_in_an_evaluation(olmoe, tokenizer, tmp_path):
    task = write(tmp_path / "t.jsonl", {"text": "ab", "target": "c", "aim": 1})
    found = probes.evaluate(olmoe, task, tokenizer=tokenizer, max_new_tokens=2)
    assert any('the key "aim" is not known' in note for note in found.notes)


def test_parquet_gives_the_same_conversation(olmoe, chatty, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {"messages": [{"role": "user", "content": "hi", "tool_calls": None}], "tools": json.dumps(CALL)},
        {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}], "tools": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    first, second = read_prompts(tmp_path / "p.parquet").good
    assert first.messages == HI
    assert first.chat.tools == CALL
    assert second.messages == [{"role": "assistant", "tool_calls": [{"name": "f"}]}]


def test_a_template_that_fails_leaves_the_others(olmoe, chatty, tmp_path):
    chatty.chat_template = "{{ raise_exception('no tools here') if tools }}{{ messages[0].content }}"
    found, done = texts(olmoe, chatty, tmp_path, {"messages": HI}, {"messages": HI, "tools": CALL})
    assert found == ["hi"]
    assert "no tools here" in str(done.left_out[0])
    with pytest.raises(ProbeError, match="no tools here"):
        side_by_side(
            olmoe, chatty, prompt_from_record({"messages": HI, "tools": CALL}, "x", "p"), ["ban:layer=1,expert=0"]
        )
