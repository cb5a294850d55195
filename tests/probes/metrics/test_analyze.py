"""From a trace on disk: the same numbers as over arrays, the command line, memory and the stored sums."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from probes import metrics
from probes.analysis import analyze
from probes.cli.main import main
from probes.errors import ProbeError, UsageError
from probes.ingest import import_npz
from probes.metrics.render import as_object, render
from probes.sources import TraceSource, layers_of
from store.trace import open_trace
from tests.probes.metrics.cases import NOT_IN_A_FILE, Case, random_case
from tests.probes.metrics.lawbook import options, same


def save(case: Case, path: Path, leave_out: tuple[str, ...] = ()) -> Path:
    """The case as a trace, by way of the neutral file."""
    sequence = case["sequence_id"]
    first = [int(np.flatnonzero(sequence == s)[0]) for s in pd.unique(sequence)]
    arrays = {name: case[name] for name in ("experts", "sequence_id", "num_experts", "token_id", "predicted_id")}
    arrays |= {n: case[n].astype(np.float32) for n in ("weights", "logits", "output_norm", "output_absmax")}
    arrays |= {"token": case["token"].astype(str), "layer": case["layers"], "k": case["experts"].shape[2]}
    arrays["label"] = np.array(["c" if case["label"][t] is None else case["label"][t] for t in first])
    np.savez(path.with_suffix(".npz"), **{n: v for n, v in arrays.items() if n not in leave_out})
    import_npz(path.with_suffix(".npz"), path, allow_missing=True)
    return path


def as_stored(case: Case) -> Case:
    """What comes back from a trace: single precision, every sequence labelled, numbered from the first on."""
    floats = ("weights", "logits", "output_norm", "output_absmax")
    labels = np.array(["c" if x is None else x for x in case["label"]], object)
    floats = (*floats, "other_logits")
    kept = {name: value for name, value in case.items() if name not in NOT_IN_A_FILE}
    return {**kept, **{n: case[n].astype(np.float32) for n in floats}, "label": labels}


@pytest.fixture(scope="module")
def case() -> Case:
    made = random_case(5)
    # A trace is read in the order of sequence_id, so here that is the order of appearance too.
    return {**made, "sequence_id": pd.factorize(made["sequence_id"])[0]}


@pytest.fixture(scope="module")
def trace(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run 1 is the case, run 2 the same tokens routed a little differently, run 3 other tokens."""
    path = save(case, tmp_path_factory.mktemp("trace") / "t.duckdb")
    other = {"experts": case["other_experts"], "logits": case["other_logits"]}
    save({**case, **other}, path)
    save({**case, "token_id": case["token_id"] + 1}, path)
    return path


def stored_options(name: str) -> dict[str, Any]:
    """The options of the laws, but for criteria whose arrays a neutral file cannot hold."""
    chosen = dict(options(metrics.get(name)))
    if "criterion" in chosen:
        chosen["criterion"] = tuple(c for c in chosen["criterion"] if c not in ("easy_ep", "mone", "mone_variance"))
    return chosen


def trace_options(name: str) -> dict[str, Any]:
    chosen = stored_options(name)
    if "first" in chosen:
        chosen["label"] = chosen.pop("first")
    return {**chosen, "run_id": 1} | ({"against": 2} if metrics.get(name).paired else {})


def in_a_file(metric: metrics.Metric) -> bool:
    """Whether a neutral file can hold what it needs; the others are held against recordings (test_needs)."""
    needed = metric.needed(metric.checked({}))
    return not {n for n in needed if not n.endswith("?")} & NOT_IN_A_FILE


VARIANTS: list[tuple[str, dict[str, Any]]] = [(n, {}) for n, metric in metrics.discover().items() if in_a_file(metric)]
VARIANTS += [
    ("load", {"by": "label"}),
    ("load", {"summary": True}),
    ("load", {"ci": True, "resamples": 20}),
    ("npmi", {"target": "token"}),
    ("npmi", {"target": "marker:t1"}),
    ("npmi", {"contrast": "t1", "minus": ("t2", "t3")}),
    ("routing_entropy", {"by": "token"}),
    ("routing_entropy", {"over": "chosen"}),
    ("domain_specialization", {"summary": True}),
    ("risk_difference", {"equal_tokens": True}),
    ("capacity", {"mode": "reroute", "gamma": (0.5, 1.0)}),
    ("capacity", {"drop": "score", "gamma": 0.5, "by": "label"}),
    ("coactivation", {"adjacent_rank": True}),
    ("sch", {"definition": "window"}),
    ("srp", {"ci": True, "resamples": 20, "by": "label"}),
]


@pytest.mark.parametrize(("name", "more"), VARIANTS)
def test_a_trace_gives_what_its_arrays_give(name: str, more: dict[str, Any], case: Case, trace: Path) -> None:
    over_arrays = getattr(metrics, name)(**as_stored(case), **{**stored_options(name), **more})
    over_trace = analyze(trace, name, **{**trace_options(name), **more})
    # Sequences and tokens are renumbered by the trace; where something was found is compared in test_places.
    same(over_arrays, over_trace, {"sequence_id", "position", "rank", "token"} if name == "super_experts" else set())


@pytest.mark.parametrize("name", [n for n, m in metrics.discover().items() if m.aggregates and in_a_file(m)])
@pytest.mark.parametrize("layers", [None, "3"])
def test_stored_sums_give_what_counting_gives(
    name: str, layers: str | None, trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = {**trace_options(name), "layers": layers}
    with monkeypatch.context() as patch:
        patch.setattr(TraceSource, "chunks", lambda self, needs: pytest.fail("read the trace"))
        quick = analyze(trace, name, **chosen)
    monkeypatch.setattr(TraceSource, "aggregates", lambda self: None)
    pd.testing.assert_frame_equal(quick, analyze(trace, name, **chosen))


def test_chosen_layers_are_those_of_the_whole(case: Case, trace: Path) -> None:
    whole, one = (analyze(trace, "routing_entropy", run_id=1, layers=x) for x in (None, "3"))
    pd.testing.assert_frame_equal(whole[whole.layer == 3].reset_index(drop=True), one)
    with pytest.raises(UsageError, match="no MoE layer 2"):
        analyze(trace, "load", layers="1-3")


def test_layers_as_people_write_them() -> None:
    assert layers_of("0-2,7") == [0, 1, 2, 7]
    assert layers_of([3, 1]) == [3, 1]
    with pytest.raises(UsageError, match="--layers takes"):
        layers_of("a-b")


def test_what_was_not_recorded_is_named(case: Case, tmp_path: Path) -> None:
    bare = save(case, tmp_path / "bare.duckdb", leave_out=("logits", "weights", "output_norm", "label"))
    for name, missing in (("routing_entropy", "logits"), ("norm_vs_gate", "output_norm"), ("npmi", "labels")):
        with pytest.raises(ProbeError, match=missing):
            analyze(bare, name)


def test_json_is_one_object_without_nan(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", "npmi", str(trace), "--json"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=lambda c: pytest.fail(c))
    assert list(found) == ["metric", "params", "run_id", "columns", "rows"]
    assert found["metric"] == "npmi"
    assert found["run_id"] == 3, "the newest complete one"
    assert found["params"]["target"] == "label"
    assert all(set(c) == {"name", "unit", "description"} and all(c.values()) for c in found["columns"])
    assert [c["name"] for c in found["columns"]] == list(found["rows"][0])
    assert isinstance(found["rows"][0]["n_xy"], int)


def test_formats(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = analyze(trace, "load")
    for kind, start in (("table", " layer"), ("csv", "layer,expert"), ("markdown", "| layer | expert"), ("json", "{")):
        assert main(["analyze", "load", str(trace), "--format", kind]) == 0
        assert capsys.readouterr().out.startswith(start)
    assert len(as_object(frame)["rows"]) == len(frame)
    assert render(frame, "csv").count("\n") == len(frame)


def test_the_command_takes_what_the_metric_declares(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "analyze",
        "srp",
        str(trace),
        "--segment-length",
        "1",
        "--segment-length",
        "3",
        "--level",
        "model",
        "--json",
    ]
    assert main([*words, "--ci", "--resamples", "10"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(r["level"], r["layer"], r["segment_length"]) for r in rows] == [("model", None, 1), ("model", None, 3)]
    assert {"ci_low", "ci_high"} <= set(rows[0])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sprp", "x"], "unknown metric 'sprp' (did you mean 'srp'?)"),
        (["srp", "x", "--segment-length", "0"], "--segment-length must be between 1 and 100000, not 0"),
        (["srp", "x", "--segment-length", "two"], "--segment-length takes int, not 'two'"),
        (["routing_entropy", "x", "--threshold", "3"], "--threshold must be between 0 and 1, not 3.0"),
        (["sch", "x", "--definition", "onlin"], "did you mean 'online'"),
        (["load", "x", "--sumary"], "unrecognized arguments: --sumary"),
        ([], "name a metric and a trace"),
    ],
)
def test_wrong_usage_exits_2_with_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_trace_that_is_not_there_exits_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", "load", str(tmp_path / "no.duckdb")]) == 1
    assert "no.duckdb" in capsys.readouterr().err


def test_the_list_names_every_metric(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", "--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(metrics.discover())
    assert main(["analyze", "--list", "--json"]) == 0
    assert {m["name"] for m in json.loads(capsys.readouterr().out)} == set(metrics.discover())


def test_places_of_super_experts_lead_back_to_the_token(case: Case, trace: Path) -> None:
    frame = analyze(trace, "super_experts", run_id=1, num_hidden_layers=5)
    row = frame.sort_values("max_abs_output").iloc[-1]
    sql = "SELECT token FROM tokens WHERE run_id = 1 AND sequence_id = ? AND position = ?"
    found = open_trace(trace).sql(sql, [int(row.sequence_id), int(row.position)])
    assert found.token[0] == row.token


def test_runs_of_other_tokens_are_not_compared(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["analyze", "router_saturation", str(trace), "--run", "1"]
    assert main([*words, "--against", "3"]) == 1
    assert "not of the same tokens" in capsys.readouterr().err
    assert main(words) == 2
    assert "give --against RUN" in capsys.readouterr().err
    assert main([*words, "--against", "2", "--against-trace", str(trace), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"]


def test_sets_by_metadata_are_those_sequences(case: Case, trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tags that say the same as the labels give the same table; sets that overlap or are empty are refused."""
    opened = open_trace(trace)
    ask = opened.sql

    def sql(query: str, params: list[Any] | None = None) -> Any:
        frame = ask(query, params)
        if "metadata::VARCHAR" in query:
            frame["metadata"] = [json.dumps({"set": label, "n": 1}) for label in frame["label"]]
        return frame

    monkeypatch.setattr(opened, "sql", sql)
    by_label = analyze(opened, "risk_difference", run_id=1, label="a", against="b")
    by_tag = analyze(opened, "risk_difference", run_id=1, label="set=a", against="set=b")
    pd.testing.assert_frame_equal(by_label, by_tag)
    with pytest.raises(UsageError, match="has set=z"):
        analyze(opened, "risk_difference", run_id=1, label="set=a", against="set=z")
    with pytest.raises(UsageError, match="share sequences"):
        analyze(opened, "risk_difference", run_id=1, label="set=a", against="n=1")


def test_two_runs_are_as_far_apart_as_two_labels_would_be(case: Case, trace: Path) -> None:
    """Run 3 has other tokens; the runs stand in place of labels, with and without the stored sums."""
    first, other = as_stored(case), as_stored({**case, "experts": case["other_experts"]})
    twice = {name: np.concatenate([first[name], other[name]]) for name in ("experts", "label")}
    twice["sequence_id"] = np.concatenate([case["sequence_id"], case["sequence_id"] + 100])
    twice["label"] = np.repeat(np.array(["run 1", "run 2"], object), len(case["experts"]))
    expected = metrics.dataset_distance(**twice, num_experts=case["num_experts"], layers=case["layers"])
    found = analyze(trace, "dataset_distance", run_id=1, against=2)
    same(expected, found)
    again = analyze(trace, "dataset_distance", run_id=1, against=2, ci=True, resamples=20)
    same(found, again.drop(columns=["ci_low", "ci_high"]))
    assert (analyze(trace, "dataset_distance", run_id=1, against=3).l2 == 0).all()
    assert analyze(trace, "dataset_distance", run_id=1, against=1, against_trace=trace).a[0].startswith("run 1 of ")


def test_what_is_saved_is_what_was_printed(case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save(case, tmp_path / "s.duckdb")
    for words in (["npmi", str(path)], ["overview", str(path), "--resamples", "20", "--permutations", "20"]):
        assert main(["analyze", *words, "--save", "--json"]) == 0
        said = capsys.readouterr()
        printed = json.loads(said.out)
        assert f"saved into {path} as result " in said.err
        metric = printed["metric"]
        rows = open_trace(path).sql("SELECT data FROM result_rows WHERE metric = ? ORDER BY row_number", [metric])
        assert [json.loads(text) for text in rows["data"]] == printed["rows"]
        (kept,) = open_trace(path).sql("SELECT * FROM results WHERE metric = ?", [metric]).to_dict("records")
        assert kept["run_id"] == printed["run_id"]
        assert json.loads(kept["params"]) == json.loads(json.dumps(printed["params"]))
    assert "pmi = log2" in open_trace(path).sql("SELECT formula FROM results WHERE metric = 'npmi'")["formula"][0]
