"""Traces that the tests of several pages need beside those of tests/app."""

import numpy as np
import pytest

from app import recorder
from probes.ingest import import_npz
from store.batch import LayerInfo, RunInfo
from store.writer import TraceWriter
from tests.app.traces import HOSTILE, Shape, batches, write_trace

IMG = "<img src=x onerror=alert(1)>"
BAD_NAMES = (IMG, "![x](http://evil.invalid/x.png)", "\u202eabc\u202c :red[y] $x^2$", "a\x00'\";--b")
BAD_FILE = f"{IMG}'\";--\u202ex\u202c![y](z) :red[y] $x$ #1 &a=b %41.duckdb"


@pytest.fixture(scope="session")
def sample(tmp_path_factory):
    """Recorded from the sample model with all that can be kept: run 1 plain, run 2 without two of its experts."""
    from probes.model import load_model
    from probes.prompts import Prompts, read_prompts
    from probes.recording.options import LEVELS
    from probes.recording.record import record
    from probes.sample import sample_path

    path = tmp_path_factory.mktemp("sample") / "sample.duckdb"
    model, tokenizer = load_model(sample_path() / "model")
    kept = {"capture": ",".join(LEVELS), "max_length": 64, "output_rate": 0.2, "progress": False}
    every = read_prompts(sample_path() / "prompts.jsonl").good
    prompts = Prompts(every[:: len(every) // 12][:12], [])
    record(model, prompts, path, tokenizer=tokenizer, **kept)
    record(model, prompts, path, tokenizer=tokenizer, interventions="ban:expert=1.3+2.5", baseline=1, **kept)
    return path


@pytest.fixture(scope="session")
def evil(tmp_path_factory):
    """Everything with a name has a hostile one: file, run, model, layers, labels, sources, tokens, origin."""
    path = tmp_path_factory.mktemp("evil") / BAD_FILE
    shape = Shape(sequences=16, length=24, layers=2, experts=8)
    origin = {name: name for name in BAD_NAMES} | {"command": f"probe record {IMG}", "versions": {IMG: IMG}}
    run = RunInfo(IMG, IMG, IMG, origin, intervention={"name": IMG}, num_layers=2)
    layers = [LayerInfo(n, f"model.{IMG}.{n}", 8, 2, gating=IMG) for n in range(2)]
    with TraceWriter.create(path, run, layers) as writer:
        for batch in batches(shape, [*HOSTILE, *HOSTILE]):
            for number, sequence in enumerate(batch.sequences):
                bad = BAD_NAMES[number % len(BAD_NAMES)]
                sequence.update(label=bad, source=bad, text=bad, prompt_id=bad, metadata={bad: bad})
            for rows in batch.layers:
                rows.output_absmax = rows.output_norm
                rows.output_absmax[5, 0] = 900  # at one of the hostile tokens
            writer.write(batch)
    return path


@pytest.fixture(scope="session")
def unequal(tmp_path_factory):
    """Two runs of the same sequences: the first with everything, the newer one with choices and weights alone."""
    path = write_trace(tmp_path_factory.mktemp("unequal") / "unequal.duckdb", Shape(sequences=12))
    return write_trace(path, Shape(sequences=12, logits=False, entropy=False, norms=False))


@pytest.fixture
def jobs(monkeypatch):
    """The recordings of this test alone, by their tokens; none goes on after it."""
    own = {}
    monkeypatch.setattr(recorder, "_jobs", own)
    yield own
    for job in own.values():
        job.process.kill()
        job.process.wait()


@pytest.fixture(scope="session")
def unlabelled(tmp_path_factory):
    """Imported from a neutral file: choices and nothing else, not even labels or text."""
    folder = tmp_path_factory.mktemp("imported")
    rng = np.random.default_rng(0)
    experts = np.argsort(rng.random((90, 3, 8)), axis=2)[:, :, :2]
    np.savez(folder / "a.npz", experts=experts, sequence_id=np.arange(90) // 15, num_experts=8, k=2)
    import_npz(folder / "a.npz", folder / "a.duckdb")
    return folder / "a.duckdb"


@pytest.fixture(scope="session")
def measured(tmp_path_factory):
    """With outputs' maxima: expert 2 of layer 1 puts out a thousand times as much at the first token of sequence 3."""
    folder = tmp_path_factory.mktemp("measured")
    rng = np.random.default_rng(1)
    experts = np.argsort(rng.random((200, 4, 8)), axis=2)[:, :, :2]
    experts[60, 1] = [2, 0]
    absmax = rng.gamma(9, 0.1, experts.shape).astype(np.float32)
    absmax[60, 1, 0] = 1000.0
    words = np.where(np.arange(200) % 20 == 0, "<s>", "<img src=x onerror=alert(1)>")
    sequence = np.arange(200) // 20
    np.savez(folder / "m.npz", experts=experts, sequence_id=sequence, num_experts=8, k=2, output_absmax=absmax,
             output_norm=absmax, token=words, label=np.array(["a", "b"] * 5))  # fmt: skip
    import_npz(folder / "m.npz", folder / "m.duckdb")
    return folder / "m.duckdb"
