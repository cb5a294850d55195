"""Two runs side by side: the numbers are those of the metrics, and runs that cannot be compared are refused."""

import json

import numpy as np
import pytest

from probes.analysis import analyze
from probes.cli.main import main
from probes.comparison import EXPERT_COLUMNS, LAYER_COLUMNS, compare, most_changed
from probes.errors import ProbeError, UsageError
from probes.ingest import import_npz
from tests.app.traces import Shape, write_trace

TOKENS, LAYERS, EXPERTS, TOP_K = 60, 3, 8, 2


def routing(seed, bias=0.0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(TOKENS, LAYERS, EXPERTS))
    logits[..., 0] += bias
    return logits.astype(np.float32)


def save(path, logits, sequence_id=None, with_logits=True):
    """A run of these logits, through the neutral file."""
    experts = np.argsort(-logits, axis=-1)[..., :TOP_K]
    arrays = {"experts": experts, "num_experts": logits.shape[-1], "k": TOP_K, "token_id": np.arange(TOKENS)}
    arrays["sequence_id"] = np.repeat(np.arange(6), 10) if sequence_id is None else sequence_id
    np.savez(path.with_suffix(".npz"), **arrays, **({"logits": logits} if with_logits else {}))
    import_npz(path.with_suffix(".npz"), path)
    return path


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    """Run 1, and run 2 in which expert 0 is favoured."""
    path = tmp_path_factory.mktemp("runs") / "two.duckdb"
    save(path, routing(0))
    return save(path, routing(0, bias=1.5))


def test_numbers_are_those_of_the_metrics(trace):
    found = compare(trace)
    assert (found.a["run_id"], found.b["run_id"], found.notes) == (1, 2, ())
    assert tuple(found.layers.columns) == tuple(c.name for c in LAYER_COLUMNS)
    assert tuple(found.experts.columns) == tuple(c.name for c in EXPERT_COLUMNS)
    for name, run in (("a", 1), ("b", 2)):
        load = analyze(trace, "load", run_id=run)
        assert found.experts[f"count_{name}"].tolist() == load["count"].tolist()
        np.testing.assert_allclose(found.experts[f"share_{name}"], load["share"])
        summary = analyze(trace, "load", run_id=run, summary=True)
        for column in ("cv", "max_over_mean"):
            np.testing.assert_allclose(found.layers[f"{column}_{name}"], summary[column])
        assert found.layers[f"dead_{name}"].tolist() == summary["dead_experts"].tolist()
        entropy = analyze(trace, "routing_entropy", run_id=run)
        np.testing.assert_allclose(found.layers[f"entropy_{name}"], entropy["normalized_mean"], rtol=1e-5)
        np.testing.assert_allclose(found.layers[f"margin_{name}"], entropy["margin_mean"], rtol=1e-5, atol=1e-7)
    distance = analyze(trace, "dataset_distance", run_id=1, against=2)
    np.testing.assert_allclose(found.layers["l2"], distance["l2"])
    np.testing.assert_allclose(found.layers["js_bits"], distance["js_bits"])
    agreement = analyze(trace, "router_saturation", run_id=1, against=2)
    for column in ("saturation", "change_rate", "slot_change"):
        np.testing.assert_allclose(found.layers[column], agreement[column])
    assert found.layers["n_paired"].tolist() == [TOKENS] * LAYERS


def test_what_changed_most_comes_first(trace):
    top = most_changed(compare(trace).experts, 3)
    assert (top["expert"] == 0).all()
    assert top["difference"].is_monotonic_decreasing
    assert most_changed(compare(trace, trace, 1, 2, layers="1").experts, 99)["layer"].unique().tolist() == [1]


def test_a_run_and_its_copy_in_another_file(trace, tmp_path):
    copy = save(tmp_path / "copy.duckdb", routing(0))
    found = compare(trace, copy, run=1)
    assert (found.layers["saturation"] == 1).all()
    assert (found.layers["js_bits"] == 0).all()
    assert most_changed(found.experts, 10).empty


def test_runs_of_other_tokens_are_compared_without_agreement(trace, tmp_path):
    other = save(tmp_path / "other.duckdb", routing(0), sequence_id=np.repeat(np.arange(100, 103), 20))
    found = compare(trace, other, run=1)
    assert found.layers["saturation"].isna().all()
    assert found.layers["cv_b"].notna().all()
    assert "not of the same tokens" in found.notes[0]


def test_without_logits_there_is_no_entropy_and_a_note(trace, tmp_path):
    bare = save(tmp_path / "bare.duckdb", routing(0), with_logits=False)
    found = compare(trace, bare, run=1)
    assert found.layers["entropy_a"].notna().all()
    assert found.layers["entropy_b"].isna().all()
    assert any("without logits" in note for note in found.notes)


def test_a_baseline_is_what_comes_before(tmp_path):
    path = write_trace(tmp_path / "three.duckdb", Shape(sequences=2, length=5))
    write_trace(path, Shape(sequences=2, length=5))
    assert (compare(path).a["run_id"], compare(path).b["run_id"]) == (1, 2)
    assert (compare(path, run=2).a["run_id"], compare(path, run=2).b["run_id"]) == (2, 1)
    assert (compare(path, against=1).a["run_id"], compare(path, against=1).b["run_id"]) == (2, 1)


@pytest.mark.parametrize("shape", [{"experts": 6}, {"layers": 2}, {"first_layer": 1}, {"top_k": 1}])
def test_other_shapes_are_refused(tmp_path, shape):
    one = write_trace(tmp_path / "one.duckdb", Shape(sequences=2, length=5, layers=3, experts=8))
    two = write_trace(
        tmp_path / "two.duckdb", Shape(**{"sequences": 2, "length": 5, "layers": 3, "experts": 8} | shape)
    )
    with pytest.raises(ProbeError, match="only runs of the same shape") as error:
        compare(one, two)
    assert "one.duckdb has layers 0-2 with 2 of 8 experts" in str(error.value)


def test_what_cannot_be_compared(trace, tmp_path):
    with pytest.raises(UsageError, match="compared with itself"):
        compare(trace, run=1, against=1)
    with pytest.raises(ProbeError, match="holds one run"):
        compare(save(tmp_path / "one.duckdb", routing(1)))


def test_the_command(trace, capsys):
    assert main(["compare", str(trace), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [len(said[part]["rows"]) for part in ("layers", "experts")] == [LAYERS, LAYERS * EXPERTS]
    assert said["a"]["run_id"] == 1
    assert {c["name"] for c in said["layers"]["columns"]} == set(said["layers"]["rows"][0])
    assert (
        main(["compare", str(trace), str(trace), "--run", "2", "--against", "1", "--top", "2", "--no-agreement"]) == 0
    )
    out = capsys.readouterr().out
    assert "the 2 experts whose share of the load changed most" in out
    assert "saturation" not in out
    assert main(["compare", str(trace), "--top", "-1"]) == 2
    assert main(["compare", str(trace), "--run", "7"]) == 1
    assert "no run 7" in capsys.readouterr().err
