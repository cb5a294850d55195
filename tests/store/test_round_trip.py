"""What goes in comes out, bit for bit."""

import numpy as np
import pytest

from store.batch import Batch, LayerInfo, LayerRows, RunInfo
from store.encode import widen
from store.trace import open_trace
from store.writer import TraceWriter
from tests.store.made import RUN, Plan, dump, write

COLUMNS = ("experts", "weights", "output_norm", "output_absmax", "input_absmax", "entropy", "margin", "logits")


def read(path, columns=COLUMNS, **options):
    chunks = list(open_trace(path).chunks(columns=columns, **options))
    names = [name for name in chunks[0] if name != "layers"]
    return {name: np.concatenate([c[name] for c in chunks]) for name in names} | {"layers": chunks[0]["layers"]}


def expected(batches, layer, name):
    return np.concatenate([getattr(next(r for r in b.layers if r.layer == layer), name) for b in batches])


@pytest.mark.parametrize("logits", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("rate", [1.0, 0.3])
def test_every_array_comes_back_exactly(tmp_path, logits, rate):
    plan = Plan(logits=logits, logit_rate=rate)
    batches = write(tmp_path / "t.duckdb", plan)
    got = read(tmp_path / "t.duckdb")
    assert got["layers"].tolist() == [1, 2, 4]
    for i, (layer, e, k) in enumerate(plan.layers):
        experts = expected(batches, layer, "experts")
        np.testing.assert_array_equal(got["experts"][:, i, :k], experts)
        assert (got["experts"][:, i, k:] == -1).all()
        for name in ("weights", "output_norm", "output_absmax"):
            want = np.where(experts >= 0, expected(batches, layer, name), np.nan)
            np.testing.assert_array_equal(got[name][:, i, :k], want)
        for name in ("entropy", "margin", "input_absmax"):
            np.testing.assert_array_equal(got[name][:, i], expected(batches, layer, name))
        stored = widen(expected(batches, layer, "logits"))
        kept = np.ones(len(stored), bool) if rate == 1 else expected(batches, layer, "logits_kept")
        np.testing.assert_array_equal(got["logits"][:, i, :e], np.where(kept[:, None], stored, np.nan))
        assert np.isnan(got["logits"][:, i, e:]).all()


def test_float32_logits_of_many_experts(tmp_path):
    plan = Plan(layers=((0, 40, 2), (1, 33, 2), (2, 8, 2)), logit_rate=0.5)
    batches = write(tmp_path / "t.duckdb", plan)
    got = read(tmp_path / "t.duckdb")["logits"]
    for i, (layer, e, _) in enumerate(plan.layers):
        kept = expected(batches, layer, "logits_kept")[:, None]
        np.testing.assert_array_equal(got[:, i, :e], np.where(kept, expected(batches, layer, "logits"), np.nan))
    shown = open_trace(tmp_path / "t.duckdb").sql(
        "SELECT logit FROM router_logits WHERE layer = 1 ORDER BY sequence_id, position, expert"
    )
    rows = got[:, 1, :33]
    np.testing.assert_array_equal(shown.logit.to_numpy().reshape(-1, 33), rows[~np.isnan(rows).any(axis=1)])


def test_tokens_come_back(tmp_path):
    batches = write(tmp_path / "t.duckdb")
    got = read(tmp_path / "t.duckdb", columns=())
    for name in ("sequence_id", "position", "token_id", "phase", "predicted_id"):
        np.testing.assert_array_equal(got[name], np.concatenate([b.tokens[name] for b in batches]))
    want = np.concatenate([b.tokens["logprob"] for b in batches]).astype(np.float32)
    np.testing.assert_array_equal(got["logprob"], want)
    assert got["token"].tolist() == [t for b in batches for t in b.tokens["token"]]
    names = open_trace(tmp_path / "t.duckdb").label_names()
    label = {s["sequence_id"]: s["label"] for b in batches for s in b.sequences}
    assert [None if c < 0 else names[c] for c in got["label"]] == [label[s] for s in got["sequence_id"]]


def test_chunks_are_whole_sequences_in_order_and_bounded(tmp_path):
    write(tmp_path / "t.duckdb")
    whole = read(tmp_path / "t.duckdb")
    chunks = list(open_trace(tmp_path / "t.duckdb").chunks(columns=COLUMNS, max_rows=90))
    assert len(chunks) > 5
    assert all(len(c["position"]) * 3 <= 90 for c in chunks)
    assert all(c["position"][0] == 0 for c in chunks)
    for name in ("sequence_id", "position", "experts", "logits"):
        np.testing.assert_array_equal(np.concatenate([c[name] for c in chunks]), whole[name])


def test_some_layers_and_sequences_only(tmp_path):
    write(tmp_path / "t.duckdb")
    whole = read(tmp_path / "t.duckdb")
    got = read(tmp_path / "t.duckdb", layers=[4], sequences=[2, 3, 9])
    assert got["layers"].tolist() == [4]
    rows = np.isin(whole["sequence_id"], [2, 3, 9])
    np.testing.assert_array_equal(got["experts"][:, 0, :2], whole["experts"][rows, 2, :2])


def test_several_runs_in_one_file(tmp_path):
    path = tmp_path / "t.duckdb"
    first = write(path, Plan(seed=1), run=RUN)
    write(
        path,
        Plan(seed=2, logits="bfloat16"),
        run=RunInfo("steered", RUN.model, intervention="ban:layer=1", baseline_run_id=1),
    )
    trace = open_trace(path)
    assert trace.runs().run_id.tolist() == [1, 2]
    assert trace.run()["name"] == "steered"
    assert trace.run(2)["baseline_run_id"] == 1
    got = next(trace.chunks(1, columns=("experts",)))
    np.testing.assert_array_equal(got["experts"][:, 0, :2], expected(first, 1, "experts"))
    alone = tmp_path / "alone.duckdb"
    write(alone, Plan(seed=1), run=RUN)
    of_first = [row for row in dump(path)["routing"] if row[0] == "1"]
    assert of_first == dump(alone)["routing"]


def test_output_vectors_and_moments(tmp_path):
    plan = Plan(outputs=True, logit_rate=0.5)
    batches = write(tmp_path / "t.duckdb", plan)
    trace = open_trace(tmp_path / "t.duckdb")
    got = trace.sql("SELECT * FROM output_vectors WHERE layer = 1 ORDER BY sequence_id, position")
    rows = [b.layers[0] for b in batches]
    want = np.concatenate([r.outputs[r.experts[r.outputs_kept] >= 0] for r in rows])
    np.testing.assert_array_equal(np.stack(sorted(map(tuple, got.vector))), np.array(sorted(map(tuple, want))))
    counts, means, m2s = zip(*(b.moments[1] for b in batches), strict=True)
    n = np.sum(counts, axis=0)
    mean = np.sum([c[:, None] * m for c, m in zip(counts, means, strict=True)], axis=0) / n[:, None]
    spread = [m2 + c[:, None] * (m - mean) ** 2 for c, m, m2 in zip(counts, means, m2s, strict=True)]
    moments = trace.sql("SELECT * FROM expert_outputs WHERE layer = 1 ORDER BY expert")
    assert moments.n_tokens.tolist() == n.tolist()
    np.testing.assert_allclose(np.stack(moments["mean"]), mean, atol=1e-5)
    np.testing.assert_allclose(np.stack(moments.m2), np.sum(spread, axis=0), rtol=1e-4)


EIGHT = LayerInfo(0, "gate", 8, 2)


def one_batch(tokens, experts=None, **columns):
    n = len(tokens["sequence_id"])
    rows = LayerRows(0, np.zeros((n, 1), int) if experts is None else experts, **columns)
    return Batch(0, [{"sequence_id": 0}], tokens, [rows])


def store_one(path, batch, info=EIGHT):
    with TraceWriter.create(path, RUN, [info]) as writer:
        writer.write(batch)
    return open_trace(path)


def test_texts_that_differ_for_one_id_are_kept(tmp_path):
    texts = ["a", "b", None, "a", "\ud83d", "\x00é"]
    tokens = {
        "sequence_id": np.zeros(6, int),
        "position": np.arange(6),
        "token_id": np.array([5, 5, 5, 5, 6, 7]),
        "token": texts,
    }
    trace = store_one(tmp_path / "t.duckdb", one_batch(tokens))
    got = trace.sql("SELECT token FROM tokens ORDER BY position").token.tolist()
    assert got == ["a", "b", "a", "a", "?", "\x00é"]
    assert trace.sql("SELECT text FROM raw.tokens ORDER BY position").text.isna().tolist() == [True, False, *[True] * 4]


def test_tokens_without_ids_keep_their_text(tmp_path):
    tokens = {"sequence_id": np.zeros(2, int), "position": np.arange(2), "token": ["x", "y"]}
    trace = store_one(tmp_path / "t.duckdb", one_batch(tokens))
    assert trace.sql("SELECT token FROM tokens ORDER BY position").token.tolist() == ["x", "y"]
    assert next(trace.chunks())["token_id"].tolist() == [-1, -1]


def test_missing_rows_say_why(tmp_path):
    tokens = {"sequence_id": np.zeros(3, int), "position": np.arange(3)}
    experts = np.array([[1, 0], [-1, -1], [3, -1]])
    trace = store_one(tmp_path / "t.duckdb", one_batch(tokens, experts, missing_reason="cached prefix"))
    frame = trace.sql("SELECT experts, missing_reason FROM routing ORDER BY position")
    assert frame.missing_reason.fillna("").tolist() == ["", "cached prefix", ""]
    np.testing.assert_array_equal(next(trace.chunks())["experts"][:, 0], experts)
    ranks = trace.sql("SELECT position, rank, expert FROM assignments ORDER BY ALL").values.tolist()
    assert ranks == [[0, 1, 1], [0, 2, 0], [2, 1, 3]]


def test_odd_numbers_of_experts(tmp_path):
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 0x7F00, (4, 5)).astype(np.uint16)
    tokens = {"sequence_id": np.zeros(4, int), "position": np.arange(4)}
    trace = store_one(tmp_path / "t.duckdb", one_batch(tokens, logits=bits), LayerInfo(0, "gate", 5, 1))
    np.testing.assert_array_equal(next(trace.chunks(columns=("logits",)))["logits"][:, 0], widen(bits))
    shown = trace.sql("SELECT logit FROM router_logits ORDER BY position, expert").logit.to_numpy()
    np.testing.assert_array_equal(shown.reshape(4, 5), widen(bits))
