"""A metric over a drawn part: bounded, the same every time, exact where the sums are, and honest about what it read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from probes.analysis import analyze, save
from probes.errors import UsageError
from probes.metrics import discover
from probes.sampling import sampled
from store import database
from store.trace import open_trace
from tests.app.traces import Shape, write_trace

SHAPE = Shape(sequences=80, length=20, layers=3)
ROWS = 1500  # of 4,800: 500 tokens, 25 sequences


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    return open_trace(write_trace(tmp_path_factory.mktemp("trace") / "t.duckdb", SHAPE))


def test_a_part_is_what_its_sequences_give(trace):
    table, sample = sampled(trace, "srp", most_rows=ROWS, segment_length=4)
    drawn = trace.drawn(1, ROWS // 3)
    assert (sample.values, sample.noise) == ("sample", None)
    assert (sample.n_sequences, sample.of_sequences) == (len(drawn), 80) == (25, 80)
    assert (sample.n_tokens, sample.of_tokens) == (500, 1600)
    own = analyze(trace, "srp", segment_length=4, sequences=drawn["sequence_id"].tolist())
    pd.testing.assert_frame_equal(table, own)
    assert own.attrs["params"]["sequences"] == drawn["sequence_id"].tolist()


def test_only_the_drawn_sequences_are_read(trace):
    drawn = trace.drawn(1, 100)["sequence_id"].tolist()
    (chunk,) = trace.chunks(1, sequences=drawn)
    assert np.unique(chunk["sequence_id"]).tolist() == drawn
    assert np.diff(drawn).max() > 1  # with others between them
    whole = np.concatenate([c["experts"] for c in trace.chunks(1)])
    ids = np.concatenate([c["sequence_id"] for c in trace.chunks(1)])
    np.testing.assert_array_equal(chunk["experts"], whole[np.isin(ids, drawn)])


def test_drawing_is_even_and_repeats(trace):
    first, again = (trace.drawn(1, 400)["sequence_id"].tolist() for _ in range(2))
    assert first == again
    assert len(first) == 20
    assert set(first) < set(trace.drawn(1, 800)["sequence_id"])
    assert min(first) < 20
    assert max(first) >= 60
    assert len(trace.drawn(1, 1)) == 1  # never nothing
    assert len(trace.drawn(1, 10**9)) == 80


def test_stored_sums_answer_for_all(trace):
    table, sample = sampled(trace, "npmi", most_rows=ROWS)
    assert (sample.values, sample.noise) == ("sums", None)
    pd.testing.assert_frame_equal(table, analyze(trace, "npmi"))


def test_intervals_are_drawn_around_the_value_of_all(trace):
    options = {"label": "prose", "against": "code", "ci": True, "test": True}
    table, sample = sampled(trace, "risk_difference", most_rows=ROWS, **options)
    assert (sample.values, sample.noise) == ("sums", "sample")
    exact = analyze(trace, "risk_difference", label="prose", against="code")
    pd.testing.assert_series_equal(table["rd"], exact["rd"])
    assert ((table["ci_low"] <= table["rd"] + 1e-9) & (table["rd"] <= table["ci_high"] + 1e-9)).mean() > 0.95
    assert table[["p", "q"]].notna().any(axis=None)
    full = analyze(trace, "risk_difference", **options)
    widths = [(frame["ci_high"] - frame["ci_low"]).mean() for frame in (table, full)]
    assert widths[0] == pytest.approx(widths[1], rel=0.5)


def test_a_short_run_is_read_whole(trace):
    table, sample = sampled(trace, "srp", segment_length=4)
    assert (sample.values, sample.n_sequences) == ("all", 80)
    pd.testing.assert_frame_equal(table, analyze(trace, "srp", segment_length=4))


def test_what_was_saved_is_taken(tmp_path):
    trace = open_trace(write_trace(tmp_path / "t.duckdb", SHAPE))
    kept = analyze(trace, "srp", segment_length=4, ci=True, resamples=20)
    save(trace, kept)
    table, sample = sampled(trace, "srp", most_rows=ROWS, segment_length=4)
    assert (sample.values, sample.noise) == ("saved", "saved")
    np.testing.assert_allclose(table["srp"], kept["srp"])
    assert list(table) == list(kept)
    assert sampled(trace, "srp", most_rows=ROWS, segment_length=8).sample.values == "sample"
    assert sampled(trace, "srp", most_rows=ROWS, segment_length=4, layers="0").sample.values == "sample"


def basis_of(path, **asked):
    return sampled(path, "srp", most_rows=ROWS, segment_length=4, **asked).sample.values


def test_what_was_saved_of_other_data_is_not_taken(tmp_path):
    path = write_trace(tmp_path / "t.duckdb", SHAPE)
    save(path, analyze(path, "srp", segment_length=4))
    assert basis_of(path) == "saved"
    for change in ("n_tokens = n_tokens + 1", 'provenance = \'{"fingerprint": "another"}\''):
        with database.writing(path) as con:
            con.execute(f"UPDATE raw.runs SET {change}")
        assert basis_of(path) == "sample", change
    save(path, analyze(path, "srp", segment_length=4))
    assert basis_of(path) == "saved"
    with database.writing(path) as con:
        con.execute("UPDATE raw.labels SET label = 'renamed' WHERE label_id = 0")
    assert basis_of(path) == "sample"


def test_what_was_saved_by_other_code_is_not_taken(tmp_path, monkeypatch):
    path = write_trace(tmp_path / "t.duckdb", SHAPE)
    save(path, analyze(path, "srp", segment_length=4))
    metric = discover()["srp"]
    monkeypatch.setitem(discover(), "srp", replace(metric, table=lambda *args: metric.table(*args)))
    assert basis_of(path) == "sample"
    monkeypatch.undo()
    assert basis_of(path) == "saved"
    monkeypatch.setattr("probes.metrics.code._shared", lambda: "another version of what metrics share")
    assert basis_of(path) == "sample"


def test_what_was_saved_without_a_basis_is_not_taken(tmp_path):
    path = write_trace(tmp_path / "t.duckdb", SHAPE)
    save(path, analyze(path, "srp", segment_length=4))
    with database.writing(path) as con:
        con.execute("DELETE FROM raw.result_bases")
    assert basis_of(path) == "sample"


def test_the_run_compared_with_counts_too(tmp_path):
    paths = [write_trace(tmp_path / name, SHAPE) for name in ("a.duckdb", "b.duckdb")]
    asked = {"against": 1, "against_trace": str(paths[1])}
    save(paths[0], analyze(paths[0], "router_saturation", **asked))
    assert sampled(paths[0], "router_saturation", most_rows=ROWS, **asked).sample.values == "saved"
    with database.writing(paths[1]) as con:
        con.execute("UPDATE raw.runs SET provenance = '{}'")
    assert sampled(paths[0], "router_saturation", most_rows=ROWS, **asked).sample.values == "sample"


def test_sequences_that_are_not_there(trace):
    with pytest.raises(UsageError, match="no sequence 99"):
        analyze(trace, "srp", sequences=[1, 99])
    with pytest.raises(UsageError, match="no sequences"):
        analyze(trace, "srp", sequences=[])


def test_a_part_of_two_runs(trace):
    ids = [3, 5, 8]
    same = analyze(trace, "router_saturation", against=1, sequences=ids)
    assert (same["saturation"] == 1).all()
    assert (same["n_tokens"] == 60).all()
    beside = analyze(trace, "dataset_distance", against=1, against_trace=trace.path, sequences=ids)
    assert (beside["n_tokens"] == 120).all()
