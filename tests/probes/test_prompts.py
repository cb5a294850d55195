"""Prompts in every kind of file, and every way in which a line can be wrong."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from probes.errors import ProbeError
from probes.prompts import read_prompts


def write(path, *lines):
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return path


def test_jsonl_keeps_every_field_and_counts_blank_lines(tmp_path):
    file = write(
        tmp_path / "p.jsonl",
        {"text": "one", "id": "a", "label": "x", "target": "t", "metadata": {"n": 1}},
        "",
        {"messages": [{"role": "user", "content": "hi"}]},
    )
    found = read_prompts(file)
    assert not found.bad
    first, second = found.good
    assert (first.text, first.prompt_id, first.label, first.target, first.metadata) == ("one", "a", "x", "t", {"n": 1})
    assert second.messages == [{"role": "user", "content": "hi"}]
    assert second.prompt_id == "3"
    assert second.source.endswith("p.jsonl:3")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{not json", "not valid JSON"),
        ("[1]", "expected a JSON object, got a list"),
        ({"txt": "x"}, "did you mean 'text'"),
        ({"text": "x", "messages": []}, "not both"),
        ({"text": ""}, "is empty"),
        ({"text": 3}, '"text" must be a string, got the number 3'),
        ({"text": "x", "label": 7}, '"label" must be a string, got the number 7'),
        ({"text": "x", "label": True}, "got true/false"),
        ({"text": "x", "metadata": "m"}, '"metadata" must be an object'),
        ({"text": "x", "id": [1]}, '"id" must be a string'),
        ({"messages": [{"role": "user"}]}, '"messages"[0] must be'),
        ({"messages": []}, "at least one"),
    ],
)
def test_a_bad_line_is_named_and_the_others_are_kept(tmp_path, line, reason):
    found = read_prompts(write(tmp_path / "p.jsonl", {"text": "good"}, line, {"text": "also good"}))
    assert [prompt.text for prompt in found.good] == ["good", "also good"]
    (bad,) = found.bad
    assert bad.source.endswith("p.jsonl:2")
    assert reason in bad.reason


def test_bytes_that_are_not_utf8_are_a_bad_line(tmp_path):
    file = tmp_path / "p.jsonl"
    file.write_bytes(b'{"text": "a"}\n{"text": "\xff"}\n')
    found = read_prompts(file)
    assert len(found.good) == 1
    assert "UTF-8" in found.bad[0].reason


def test_deep_nesting_is_a_bad_line_not_a_crash(tmp_path):
    found = read_prompts(write(tmp_path / "p.jsonl", {"text": "a"}, "[" * 200_000))
    assert len(found.good) == len(found.bad) == 1


def test_folder_of_text_files_in_name_order(tmp_path):
    for name in ("b", "a"):
        (tmp_path / f"{name}.txt").write_text(f"text {name}")
    (tmp_path / "empty.txt").write_text("")
    found = read_prompts(tmp_path)
    assert [prompt.prompt_id for prompt in found.good] == ["a", "b"]
    assert found.bad[0].reason == "empty file"


def test_parquet_with_the_same_columns(tmp_path):
    table = pa.table({"text": ["a", "b"], "label": ["x", None], "metadata": ['{"n": 1}', None]})
    pq.write_table(table, tmp_path / "p.parquet")
    first, second = read_prompts(tmp_path / "p.parquet").good
    assert (first.text, first.label, first.metadata) == ("a", "x", {"n": 1})
    assert (second.label, second.metadata) == (None, {})


def test_limit_stops_reading(tmp_path):
    file = write(tmp_path / "p.jsonl", *({"text": str(n)} for n in range(10)))
    assert len(read_prompts(file, limit=3).good) == 3


@pytest.mark.parametrize("name", ["p.jsonl", "p.parquet", "folder", "p.csv"])
def test_nothing_usable_is_one_clear_line(tmp_path, name):
    path = tmp_path / name
    path.mkdir() if name == "folder" else path.write_text("")
    with pytest.raises(ProbeError) as error:
        read_prompts(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_suggests_its_neighbour(tmp_path):
    write(tmp_path / "prompts.jsonl", {"text": "a"})
    with pytest.raises(ProbeError, match=r"did you mean 'prompts.jsonl'"):
        read_prompts(tmp_path / "prompt.jsonl")
