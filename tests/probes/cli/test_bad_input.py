"""Whatever is wrong: one clear line on stderr, the right exit code, nothing lost and nothing half-written."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from probes.cli.main import main
from store.trace import open_trace


@pytest.fixture
def record(olmoe_folder, prompts_file, tmp_path, capsys):
    """`record(model=…, prompts=…, out=…, …)` -> (exit code, stderr)."""

    def run(*words, model=olmoe_folder, prompts=prompts_file, out=tmp_path / "t.duckdb"):
        code = main(["record", str(model), "--prompts", str(prompts), "--out", str(out), *words])
        return code, capsys.readouterr().err

    return run


def is_one_line(said):
    return said.startswith("probe: ") and said.count("\n") == 1


def damaged(olmoe_folder, tmp_path, change):
    folder = tmp_path / "damaged"
    shutil.copytree(olmoe_folder, folder)
    change(folder)
    return folder


def edit_config(**changes):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: os.truncate(f / "model.safetensors", 5000), "model.safetensors is"),
        (lambda f: (f / "model.safetensors").unlink(), "no .safetensors weights"),
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "is not JSON"),
        (edit_config(model_type="olmoa"), "unknown architecture 'olmoa' (did you mean"),
    ],
)
def test_a_broken_model_folder(record, olmoe_folder, tmp_path, change, words):
    code, said = record(model=damaged(olmoe_folder, tmp_path, change))
    assert code == 1
    assert is_one_line(said)
    assert words in said
    assert not (tmp_path / "t.duckdb").exists()


def test_a_missing_model_folder_suggests_its_neighbour(record, olmoe_folder):
    code, said = record(model=olmoe_folder.parent / "tiny-olmo")
    assert code == 1
    assert "did you mean 'tiny-olmoe'" in said


def test_a_model_without_experts(record, tokenizer, tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=400, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "dense")
    tokenizer.save_pretrained(tmp_path / "dense")
    capsys_free = record(model=tmp_path / "dense")
    assert capsys_free[0] == 1
    assert capsys_free[1].splitlines()[-1].endswith("has no mixture-of-experts layers")


def test_empty_prompts(record, tmp_path):
    (tmp_path / "p.jsonl").write_text("\n\n")
    code, said = record(prompts=tmp_path / "p.jsonl")
    assert (code, said) == (1, f"probe: no usable prompt in {tmp_path / 'p.jsonl'}: it is empty\n")


def test_bad_lines_are_named_and_the_rest_is_recorded(record, tmp_path):
    (tmp_path / "p.jsonl").write_text('{"text": "a b"}\nnot json\n{"text": "c", "label": 3}\n{"text": "d e f"}\n')
    code, said = record(prompts=tmp_path / "p.jsonl")
    assert code == 1
    assert f"{tmp_path / 'p.jsonl'}:2: not valid JSON" in said
    assert f'{tmp_path / "p.jsonl"}:3: "label" must be a string, got the number 3' in said
    assert open_trace(tmp_path / "t.duckdb").run()["n_sequences"] == 2


def test_a_prompt_longer_than_the_context(record, tmp_path):
    (tmp_path / "p.jsonl").write_text(json.dumps({"text": "word " * 500}))
    code, said = record(prompts=tmp_path / "p.jsonl")
    assert code == 1
    assert "do not fit the model's context of 128; cut prompts with --max-length 128" in said
    assert not (tmp_path / "t.duckdb").exists()


@pytest.mark.parametrize("what", ["folder", "missing folder", "text", "sqlite", "other duckdb", "empty"])
def test_an_output_that_cannot_be_one(record, tmp_path, what):
    out = tmp_path / "out.duckdb"
    if what == "folder":
        out.mkdir()
    elif what == "missing folder":
        out = tmp_path / "nowhere" / "out.duckdb"
    elif what == "text":
        out.write_text("hello, this is not a database at all")
    elif what == "sqlite":
        import sqlite3

        sqlite3.connect(out).execute("CREATE TABLE a(b)").connection.close()
    elif what == "other duckdb":
        import duckdb

        with duckdb.connect(str(out)) as con:
            con.execute("CREATE TABLE a AS SELECT 1 AS b")
    else:
        out.touch()
    before = out.read_bytes() if out.is_file() else None
    code, said = record(out=out)
    assert code == 1
    assert is_one_line(said)
    assert str(out) in said
    assert (out.read_bytes() if out.is_file() else None) == before


def test_another_models_trace_is_left_as_it_is(record, olmoe_folder, tmp_path):
    assert record("--limit", "3")[0] == 0
    other = tmp_path / "other-model"
    shutil.copytree(olmoe_folder, other)
    code, said = record(model=other)
    assert code == 1
    assert "another model" in said
    assert len(open_trace(tmp_path / "t.duckdb").runs()) == 1


def test_dry_run_writes_nothing(record, tmp_path, capsys):
    code, _ = record("--dry-run")
    assert code == 0
    assert not (tmp_path / "t.duckdb").exists()


# The command itself, but committing many times a second: on a fast machine it would be over before the first commit.
# And heeding Ctrl-C also where whoever started the tests in the background has it ignored.
OFTEN = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from store.writer import TraceWriter
for make in (TraceWriter.create, TraceWriter.resume):
    make.__func__.__kwdefaults__["flush_seconds"] = 0.2
from probes.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def start(olmoe_folder, prompts, out, *words):
    command = [sys.executable, "-c", OFTEN, "record", str(olmoe_folder), "--prompts", str(prompts), "--out", str(out)]
    return subprocess.Popen([*command, *words], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def many_prompts(tmp_path_factory):
    path = tmp_path_factory.mktemp("many") / "p.jsonl"
    path.write_text("\n".join(json.dumps({"text": f"prompt {n} " + "and some words " * 6}) for n in range(1500)))
    return path


def wait_for_rows(out, process):
    """Until the recording has committed something."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if out.exists() and out.stat().st_size > 0:
            runs = open_trace(out).runs()
            if len(runs) and runs.n_sequences.iloc[0] > 0:
                return
        time.sleep(0.2)
    raise AssertionError(f"nothing was recorded: {process.poll()}")


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_recording_is_readable_and_resumes(olmoe_folder, many_prompts, tmp_path, how):
    """Ctrl-C and kill -9 in the middle; then the same rows as without."""
    out = tmp_path / "t.duckdb"
    process = start(olmoe_folder, many_prompts, out, "--batch-size", "1")
    wait_for_rows(out, process)
    process.send_signal(how)
    _, said = process.communicate(timeout=120)
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert said.strip().splitlines()[-1].startswith("probe: interrupted")
    assert open_trace(out).runs().status.tolist() == ["interrupted"]
    part = open_trace(out).sql("SELECT count(*) AS n FROM tokens").n[0]
    assert part > 0
    resumed = start(olmoe_folder, many_prompts, out, "--batch-size", "1", "--resume")
    _, said = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, said
    assert "went on after" in said
    whole = tmp_path / "whole.duckdb"
    straight = start(olmoe_folder, many_prompts, whole, "--batch-size", "1")
    _, said = straight.communicate(timeout=300)
    assert straight.returncode == 0, said
    for view in ("tokens", "routing", "sequences", "expert_stats"):
        assert digest(out, view) == digest(whole, view), view


def digest(path, view):
    """Number of rows and a sum over their hashes: equal when the rows are, in any order."""
    found = open_trace(path).sql(f"SELECT count(*) AS n, sum(hash(t)::HUGEINT)::VARCHAR AS h FROM {view} t")
    return int(found.n[0]), found.h[0]


LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
from probes.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_full_disk_is_one_line_and_nothing_half_written_stays(olmoe_folder, many_prompts, tmp_path):
    """A file may not grow beyond a limit, which is how a full disk looks to a program."""
    out = tmp_path / "t.duckdb"
    words = ["record", olmoe_folder, "--prompts", many_prompts, "--out", out, "--limit", "600"]
    done = subprocess.run([sys.executable, "-c", LIMITED, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("probe: ")
    assert "full" in done.stderr
    assert not out.exists()


def test_import_refusals_leave_nothing(tmp_path, capsys):
    np.savez(tmp_path / "r.npz", experts=np.full((4, 1, 2), 9), sequence_id=np.zeros(4, int), num_experts=8)
    out = tmp_path / "t.duckdb"
    assert main(["import", "npz", str(tmp_path / "r.npz"), "--out", str(out)]) == 1
    assert is_one_line(capsys.readouterr().err)
    assert not out.exists()
    assert main(["import", "npy", "x", "--out", str(out)]) == 2


def test_an_import_answers_every_metric_command(tmp_path, capsys):
    random = np.random.default_rng(0)
    logits = random.normal(size=(60, 2, 8)).astype(np.float32)
    np.savez(
        tmp_path / "r.npz", logits=logits, k=2, sequence_id=np.repeat([0, 1, 2], 20), label=np.array(["a", "b", "a"])
    )
    out = tmp_path / "t.duckdb"
    assert main(["import", "npz", str(tmp_path / "r.npz"), "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == 60
    assert main(["analyze", "load", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"metric", "params", "run_id", "columns", "rows"}
    assert sum(row["count"] for row in found["rows"]) == 60 * 2 * 2
    stored = np.concatenate([chunk["logits"] for chunk in open_trace(out).chunks(columns=("experts", "logits"))])
    assert (stored == logits).all()
