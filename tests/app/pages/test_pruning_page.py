"""The Pruning page: criteria the trace can answer, and arithmetic that can be done by hand."""

import numpy as np
import pandas as pd
import pytest

from app import charts, data
from app.tables import pruning
from probes.analysis import analyze
from store.trace import open_trace
from tests.app.conftest import shown
from tests.app.traces import Shape, open_writer, recording_trace


def alts(test):
    return {
        element.proto.id.split("-")[-1]: element.proto.alt for element in test.get("plotly_chart") if element.proto.alt
    }


def test_the_story(open_page, traces):
    test = open_page([traces["plain"]], "pruning")
    assert not test.exception
    assert set(alts(test)) == {"chart_importance", "chart_agreement", "chart_covered", "chart_kept"}
    assert all(len(alt) > 60 for alt in alts(test).values())
    text = shown(test)
    assert "By REAP, keeping 50\u00a0% in each layer drops 32 experts of 64" in text
    assert "--capture for=expert_importance" in text  # what EASY-EP and MoNE would need
    options = test.selectbox(key="pick_criterion").options
    assert "EASY-EP" not in options
    assert {"frequency", "REAP", "EAN"} <= set(options)


def test_all_criteria_where_the_trace_holds_all(open_page, olmoe_folder, prompts_file, tmp_path):
    from probes.recording.options import RecordOptions
    from probes.recording.record import record

    options = RecordOptions(capture=("ids", "weights", "norms", "moments", "hidden"), limit=12)
    record(olmoe_folder, prompts_file, tmp_path / "all.duckdb", options=options)
    test = open_page([tmp_path / "all.duckdb"], "pruning", criterion="easy_ep")
    assert not test.exception
    assert len(test.selectbox(key="pick_criterion").options) == 9
    assert "Not in this trace" not in shown(test)


def test_without_norms_only_frequencies(open_page, traces):
    test = open_page([traces["bare"]], "pruning")
    assert not test.exception
    assert list(test.selectbox(key="pick_criterion").options) == ["frequency", "soft frequency"]


@pytest.mark.parametrize(
    "choices", [{"keep": 0.25, "scope": "over the model"}, {"keep": 1}, {"criterion": "x", "keep": "y"}]
)
def test_choices(open_page, traces, choices):
    test = open_page([traces["hostile"]], "pruning", **choices)
    assert not test.exception
    assert len(alts(test)) == 4


def test_numbers_come_from_the_stored_sums_and_are_those_of_the_metric(traces):
    found = data.analysis(data.identify(str(traces["plain"])), 1, "expert_importance", criterion=("reap", "ean"))
    assert found.sample.values == "sums"
    trace = open_trace(traces["plain"])
    every = trace.sql("SELECT sequence_id FROM sequences")["sequence_id"].tolist()
    raw = analyze(trace, "expert_importance", criterion=("reap", "ean"), sequences=every)
    np.testing.assert_allclose(found.table["importance"], raw["importance"], rtol=1e-6)
    assert found.table["rank"].tolist() == raw["rank"].tolist()


def test_nothing_yet_and_recording(open_page, tmp_path):
    with open_writer(tmp_path / "norows.duckdb", Shape()):
        test = open_page([tmp_path / "norows.duckdb"], "pruning")
        assert not test.exception
        assert "No routing has been recorded yet" in shown(test)
    with recording_trace(tmp_path / "growing.duckdb", Shape(sequences=128, length=20)):
        assert len(alts(open_page([tmp_path / "growing.duckdb"], "pruning"))) == 4


def importance(**criteria):
    """Two layers of two experts; each criterion's importance of experts 0·0, 0·1, 1·0, 1·1."""
    rows = [
        (layer, expert, name, float(values[2 * layer + expert]), 10 * (1 + 2 * layer + expert))
        for name, values in criteria.items()
        for layer in (0, 1)
        for expert in (0, 1)
    ]
    frame = pd.DataFrame(rows, columns=["layer", "expert", "criterion", "importance", "count"])
    return frame.assign(rank=frame.groupby(["criterion", "layer"])["importance"].rank(ascending=False).fillna(2))


def test_what_is_kept_by_hand():
    frame = importance(a=[1, 2, 30, 40])
    assert pruning.kept(frame, 0.5).tolist() == [False, True, False, True]
    # Over the model 30 and 40 stand first; layer 0 keeps its best all the same.
    assert pruning.kept(frame, 0.5, pruning.SCOPES[1]).tolist() == [False, True, True, True]
    assert pruning.kept(frame, 1).all()
    layers = pruning.per_layer(frame, pruning.kept(frame, 0.5))
    assert layers["covered"].tolist() == pytest.approx([20 / 30, 40 / 70])
    assert layers["n_kept"].tolist() == [1, 1]


def test_three_tenths_of_ten_are_three():
    frame = pd.DataFrame({"layer": 0, "expert": range(10), "criterion": "a", "importance": range(10), "count": 1})
    assert pruning.kept(frame, 0.3).sum() == 3


def test_what_is_unknown_goes_first():
    frame = importance(a=[np.nan, 0.0, 5, np.nan])
    assert pruning.kept(frame, 0.5).tolist() == [False, True, True, False]


def test_agreement_by_hand():
    found = pruning.agreement(importance(a=[1, 2, 3, 4], b=[9, 8, 1, 2], c=[1, 1, 1, 2])).set_index(
        ["layer", "criterion", "other"]
    )["spearman"]
    assert found[0, "a", "b"] == pytest.approx(-1)
    assert found[1, "a", "b"] == pytest.approx(1)
    assert np.isnan(found[0, "a", "c"])  # c says the same of both experts
    assert found[0, "a", "a"] == pytest.approx(1)


def test_votes_and_coverage():
    frame = importance(a=[1, 2, 3, 4], b=[2, 1, 3, 4])
    found = pruning.votes(frame, pruning.kept(frame, 0.5))
    assert found["n_keep"].tolist() == [1, 1, 0, 2]
    assert found["n_criteria"].tolist() == [2] * 4
    curve = pruning.coverage(frame, np.array([0.5, 1.0]), pruning.SCOPES[0])
    assert curve[curve["ratio"] == 1]["covered"].tolist() == [1, 1]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_figures(theme):
    frame = importance(a=[1, 2, 3, np.nan], b=[2, 1, 3, 4])
    own = frame.assign(keep=pruning.kept(frame, 0.5))[frame["criterion"] == "a"]
    heatmap, crosses = charts.importance_heatmap(own, theme).data
    assert np.asarray(heatmap.z).tolist() == [[0, 1], [1, 0]]
    middles = [np.nanmean(np.reshape(along, (-1, 6)), axis=1) for along in (crosses.x, crosses.y)]
    assert np.array(middles) == pytest.approx(np.array([[0, 1], [0, 1]]))  # one cross in the middle of each
    assert np.isnan(crosses.x).sum() == 2 * 2
    assert "never chosen" in heatmap.text[1][1]
    names = {"a": "A", "b": "B"}
    mean = pd.DataFrame({"criterion": ["a", "a", "b", "b"], "other": ["a", "b"] * 2, "spearman": [1, 0.5, 0.5, 1]})
    assert list(charts.agreement_matrix(mean, theme, names=names).data[0].x) == ["A", "B"]
    curve = pruning.coverage(frame, np.array([0.5, 1.0]), pruning.SCOPES[0])
    titles = ("share", "covered")
    lines = charts.criteria_curves(curve, theme, x="ratio", y="covered", titles=titles, names=names, chosen="a").data
    assert [line.name for line in lines] == ["B", "A"]  # the chosen one is drawn last, on top
    assert "50" in lines[0].text[0]
