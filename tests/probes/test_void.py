"""Logits that are all -inf, or all NaN, choose nothing: such rows are missing, with the reason."""

import copy

import numpy as np
import pytest
import torch

import probes
from probes import metrics
from probes.ingest import import_npz
from probes.void import ALL_INFINITE, ALL_NAN
from store.batch import Batch, LayerInfo, LayerRows, RunInfo
from store.trace import open_trace
from store.writer import TraceWriter


@pytest.fixture
def recorded(olmoe, tokenizer, prompts_file, tmp_path):
    """(value, dtype) -> a recording in which the router of layer 1 has that value throughout at the first token."""

    def make(value, dtype=torch.float32):
        model = copy.deepcopy(olmoe).to(dtype)
        gate = model.model.layers[1].mlp.gate

        def forward(hidden):
            logits = torch.nn.functional.linear(hidden.reshape(-1, hidden.shape[-1]), gate.weight)
            logits[0] = value
            ids = logits.topk(gate.top_k, dim=-1).indices
            return logits, torch.full(ids.shape, 0.5, dtype=logits.dtype), ids

        gate.forward = forward
        path = tmp_path / "t.duckdb"
        probes.record(model, prompts_file, path, tokenizer=tokenizer, batch_size=1, limit=3, progress=False)
        return open_trace(path)

    return make


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("value", "why"), [(-np.inf, ALL_INFINITE), (np.nan, ALL_NAN)])
def test_a_recording_has_such_rows_as_missing(recorded, value, why, dtype):
    trace = recorded(value, dtype)
    rows = trace.sql("SELECT * FROM raw.routing WHERE layer = 1 ORDER BY sequence_id, position")
    first = rows[rows["position"] == 0]
    assert first["missing_reason"].tolist() == [why] * 3
    assert first[["experts", "weights", "entropy", "margin", "logits"]].isna().all(axis=None)
    rest = rows[rows["position"] > 0]
    assert rest["missing_reason"].isna().all()
    assert rest[["entropy", "margin"]].notna().all(axis=None)
    load = probes.analyze(trace, "load", layers="1")
    assert load["count"].sum() == 2 * len(rest)
    assert np.isfinite(probes.analyze(trace, "routing_entropy", layers="1")["entropy_mean"]).all()


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(40, 2, 8)).astype(np.float32)
    logits[::5, 1] = -np.inf
    experts = np.argsort(-logits, axis=-1, kind="stable")[..., :2].astype(np.int16)
    return {"experts": experts, "logits": logits, "sequence_id": np.repeat(np.arange(4), 10)}


def test_an_import_has_them_as_missing(tmp_path):
    given = arrays()
    np.savez(tmp_path / "r.npz", **given)
    done = import_npz(tmp_path / "r.npz", tmp_path / "t.duckdb")
    assert "8 rows (token and layer) are stored as missing, because their logits are all -inf" in done.notes
    rows = open_trace(tmp_path / "t.duckdb").sql("SELECT * FROM raw.routing WHERE missing_reason IS NOT NULL")
    assert rows[["layer", "missing_reason"]].drop_duplicates().to_numpy().tolist() == [[1, ALL_INFINITE]]
    assert len(rows) == 8
    assert rows[["experts", "logits", "entropy"]].isna().all(axis=None)


@pytest.mark.parametrize("metric", ["load", "routing_entropy", "unchosen_mass"])
def test_metrics_leave_them_out(metric):
    """The same as of arrays in which these rows were never recorded."""
    given, gone = arrays(), arrays()
    void = np.isneginf(gone["logits"]).all(axis=-1)
    assert void.sum() == 8
    gone["experts"][void], gone["logits"][void] = -1, np.nan
    ours, right = (getattr(metrics, metric)(num_experts=8, **found) for found in (given, gone))
    assert ours.equals(right)


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_trace_that_holds_them_has_them_left_out(tmp_path, older, monkeypatch):
    """As others may write it, with ids; and as the first version stored it, with the logits as they were."""
    if older:
        monkeypatch.setattr("store.encode.kept_logits", lambda rows: np.ones(len(rows.logits), bool))
        monkeypatch.setattr("store.aggregate.kept_logits", lambda rows: np.ones(len(rows.logits), bool))
    given, gone = arrays(), arrays()
    void = np.isneginf(gone["logits"]).all(axis=-1)
    gone["experts"][void], gone["logits"][void] = -1, np.nan
    position = np.tile(np.arange(10), 4)
    layers = [LayerRows(i, given["experts"][:, i], logits=given["logits"][:, i]) for i in range(2)]
    tokens = {"sequence_id": given["sequence_id"], "position": position}
    batch = Batch(0, [{"sequence_id": i} for i in range(4)], tokens, layers)
    infos = [LayerInfo(i, "gate", 8, 2) for i in range(2)]
    with TraceWriter.create(tmp_path / "t.duckdb", RunInfo("old", "m", num_layers=2), infos) as writer:
        writer.write(batch)
    found = probes.analyze(tmp_path / "t.duckdb", "unchosen_mass")
    right = metrics.unchosen_mass(num_experts=8, **gone)
    assert found["n_tokens"].tolist() == right["n_tokens"].tolist() == [40, 32]
    np.testing.assert_allclose(found["mean"], right["mean"], rtol=1e-5)
    np.testing.assert_allclose(found["p95"], right["p95"], rtol=1e-5)
    sums = open_trace(tmp_path / "t.duckdb").aggregates(1)["sum_probability"]
    assert older or np.allclose(sums.sum(axis=(1, 2)), [40, 32])
