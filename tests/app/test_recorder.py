"""Recordings started from the browser: a real `probe record`, its progress, its end, and what it refuses."""

import json
import time
from pathlib import Path

import pytest

from app import recorder
from probes.errors import ProbeError
from store.trace import open_trace

PROMPTS = "\n".join(
    json.dumps({"text": "the quick brown fox jumps over the lazy dog " * 2}) for _ in range(24)
).encode()


@pytest.fixture(autouse=True)
def no_jobs_left(monkeypatch):
    """Every test begins with no recordings and ends them."""
    monkeypatch.setattr(recorder, "_jobs", {})
    own = recorder._jobs
    yield
    for job in own.values():
        job.process.kill()


def wait(condition, seconds=90):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_records_and_tells_how_far_it_is(olmoe_folder, tmp_path):
    job = recorder.start(olmoe_folder, PROMPTS, "p.jsonl", "mine", str(tmp_path), ["--capture", "ids,weights"])
    assert job.running
    assert job.outcome == "running"
    wait(lambda: not job.running)
    wait(lambda: not job.prompts.exists())  # the upload does not stay
    assert job.outcome == "complete", job.log()
    assert job.trace == tmp_path / "mine.duckdb"
    run = open_trace(job.trace).run()
    assert (run["status"], run["n_sequences"]) == ("complete", 24)
    assert open_trace(job.trace).sql("SELECT min(source) AS s FROM sequences")["s"][0].startswith("p.jsonl")
    assert any(line.startswith("run 1 in ") for line in job.log())
    found = job.progress()
    assert found is not None
    assert found.share == 1.0
    assert "tokens/s" in found.says
    assert found.kept
    assert not any("%|" in line for line in job.log())


def test_cancelling_keeps_what_is_recorded(olmoe_folder, tmp_path):
    words = ["--capture", "ids", "--max-new-tokens", "60", "--batch-size", "1"]
    many = b"\n".join([PROMPTS] * 4)  # enough that it cannot be done before it is told to stop
    job = recorder.start(olmoe_folder, many, "p.jsonl", "cut", str(tmp_path), words)
    wait(lambda: (found := job.progress()) is not None and found.share > 0.05)
    job.cancel()
    wait(lambda: not job.running)
    assert job.outcome == "cancelled"
    run = open_trace(job.trace).run()
    assert run["status"] == "interrupted"
    assert 0 < run["n_sequences"] < 24 * 4


def test_cancelling_before_anything_is_kept(olmoe_folder, tmp_path):
    """Within the first batch: what is generated is counted as it comes, and nothing is called recorded."""
    words = ["--capture", "ids", "--max-new-tokens", "80", "--batch-size", "24"]
    job = recorder.start(olmoe_folder, PROMPTS, "p.jsonl", "none", str(tmp_path), words)
    wait(lambda: job.progress() is not None)
    assert not job.progress().kept
    job.cancel()
    wait(lambda: not job.running)
    assert job.outcome == "cancelled"
    assert not job.trace.exists()


def test_a_failure_says_why(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    job = recorder.start(tmp_path, PROMPTS, "p.jsonl", "none", str(tmp_path))
    wait(lambda: not job.running)
    wait(lambda: bool(job.log()))
    assert job.outcome == "failed"
    assert job.log()[-1].startswith("probe: ")
    assert "Traceback" not in "\n".join(job.log())


def test_only_so_many_at_once(olmoe_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(recorder, "AT_ONCE", 0)
    with pytest.raises(ProbeError, match="wait for one to end"):
        recorder.start(olmoe_folder, PROMPTS, "p.jsonl", "mine", str(tmp_path))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "absolute path"),
        ("allenai/OLMoE-1B-7B-0924", "no folder on this machine"),
        ("../model", "no folder on this machine"),
        ("/no/such/folder", "no folder on this machine"),
        ("/etc/passwd", "no folder on this machine"),
        ("a\x00b", "no path"),
    ],
)
def test_a_model_is_a_folder_here(text, why):
    with pytest.raises(ProbeError, match=why) as error:
        recorder.check_model(text)
    assert "\n" not in str(error.value)


def test_a_folder_without_a_model(tmp_path, olmoe_folder):
    with pytest.raises(ProbeError, match="holds no model"):
        recorder.check_model(str(tmp_path))
    assert recorder.check_model(f" {olmoe_folder} ") == olmoe_folder.resolve()


@pytest.mark.parametrize("name", ["", "../x", "a/b", "/tmp/x", ".hidden", "a b", "x" * 200, "a\x00", "dot.", "ü"])
def test_a_name_is_a_plain_name(name, tmp_path):
    with pytest.raises(ProbeError, match="the name of the trace"):
        recorder.target(name, str(tmp_path))


def test_a_name_that_is_taken(tmp_path):
    (tmp_path / "mine.duckdb").touch()
    for name in ("mine", "mine.duckdb"):
        with pytest.raises(ProbeError, match="already a mine"):
            recorder.target(name, str(tmp_path))
    assert recorder.target("other", str(tmp_path)) == tmp_path / "other.duckdb"
    assert Path(recorder.target("mine", None).parent).is_dir()


@pytest.mark.parametrize(
    ("name", "plain"),
    [("../../x.txt", "x.txt"), ("C:\\a\\b.PARQUET", "b.parquet"), ("\x00<b>.exe", "b.jsonl"), ("..", "prompts.jsonl")],
)
def test_of_a_files_name_only_letters_and_kind_are_used(name, plain):
    assert recorder.plain_name(name) == plain


def test_recordings_are_found_by_their_name_alone(monkeypatch):
    monkeypatch.setattr(recorder, "_jobs", {"abc": "first", "def": "second"})
    assert recorder.find("abc") == "first"
    assert recorder.find("xyz") is recorder.find(None) is None
    assert recorder.mine("abc,nonsense,def") == ["first", "second"]
    assert recorder.current("abc,def") == "second"
    assert recorder.current("abc,") is None


def test_the_terminal_is_read_as_it_looks():
    lines = [""]
    for piece in (
        "one\r\ntwo",
        " more\n 10%|# | 1/9 [0, 1 tokens/s]\r",
        " 20%|## | 2/9 [1, 1 tok",
        "ens/s]",
        "\x1b[31mred\x1b[0m",
    ):
        recorder._show(lines, piece)
    assert lines[:2] == ["one", "two more"]
    assert lines[2] == " 20%|## | 2/9 [1, 1 tokens/s]red"
    for number in range(2 * recorder.KEPT_LINES):
        recorder._show(lines, f"{number}\n")
    assert len(lines) <= recorder.KEPT_LINES
