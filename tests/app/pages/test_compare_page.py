"""The Compare page: which runs it offers, that its numbers are those of the comparison, and what it refuses."""

import numpy as np
import pandas as pd
import pytest

from app import charts
from probes.comparison import compare, most_changed
from tests.app.conftest import shown
from tests.app.traces import Shape, open_writer, recording_trace, write_trace


def alts(test):
    return {
        element.proto.id.split("-")[-1]: element.proto.alt for element in test.get("plotly_chart") if element.proto.alt
    }


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two runs of other lengths in one trace, a third of the first shape in another, and one of another shape."""
    folder = tmp_path_factory.mktemp("two")
    path = write_trace(folder / "two.duckdb", Shape(sequences=12))
    write_trace(path, Shape(sequences=24))
    return {
        "two": path,
        "other": write_trace(folder / "other.duckdb", Shape(sequences=12)),
        "wide": write_trace(folder / "wide.duckdb", Shape(sequences=2, experts=8)),
        "bare": write_trace(folder / "bare.duckdb", Shape(sequences=12, logits=False, entropy=False, norms=False)),
    }


def test_one_run_alone_says_how_to_get_another(open_page, traces):
    test = open_page([traces["plain"]], "compare")
    assert not test.exception
    assert "no other run to compare with" in shown(test)


def test_the_story_of_two_runs(open_page, two):
    test = open_page([two["two"]], "compare")
    assert not test.exception
    assert set(alts(test)) == {"chart_moved", "chart_entropies", "chart_balances"}
    assert "not of the same tokens" in shown(test)  # twelve sequences against twenty-four
    found = compare(two["two"], agreement=False)
    top = most_changed(found.experts, 1).iloc[0]
    assert f"Expert {int(top['expert'])} of layer {int(top['layer'])}" in shown(test)
    assert "Which experts changed most?" in shown(test)
    assert f"layer={int(top['layer'])}&amp;expert={int(top['expert'])}" in shown(test)


def test_runs_of_other_traces_are_offered_and_compared(open_page, two):
    test = open_page([two["other"], two["two"]], "compare", trace="other.duckdb", **{"with": "1 of two.duckdb"})
    assert not test.exception
    assert len(test.selectbox(key="pick_with").options) == 2
    assert "100" in shown(test)  # the same tokens, the same routing
    assert "chart_saturation" in alts(test)
    assert "No expert&#x27;s share of the load changed." in shown(test)
    assert "Which experts changed most?" not in shown(test)


def test_another_shape_is_refused_in_a_line(open_page, two):
    test = open_page([two["other"], two["wide"]], "compare", trace="other.duckdb")
    assert not test.exception
    assert "only runs of the same shape can be compared" in shown(test)
    assert not alts(test)


def test_without_logits_there_is_no_entropy(open_page, two):
    test = open_page([two["other"], two["bare"]], "compare", trace="other.duckdb")
    assert not test.exception
    assert "recorded without logits" in shown(test)
    assert "chart_entropies" not in alts(test)


@pytest.mark.parametrize("choices", [{"with": "9 of nothing"}, {"balance": "max ÷ mean"}, {"balance": "<b>"}])
def test_choices(open_page, two, choices):
    assert not open_page([two["two"]], "compare", **choices).exception


def test_nothing_yet_recording_and_broken(open_page, two, tmp_path):
    (tmp_path / "broken.duckdb").write_text("hello")
    with open_writer(tmp_path / "norows.duckdb", Shape()):
        test = open_page([two["other"], tmp_path / "norows.duckdb", tmp_path / "broken.duckdb"], "compare")
        assert not test.exception
        assert len(test.selectbox(key="pick_with").options) == 1
    with recording_trace(tmp_path / "growing.duckdb", Shape(sequences=128, length=20)):
        test = open_page([two["other"], tmp_path / "growing.duckdb"], "compare", trace="growing.duckdb")
        assert not test.exception
        assert "chart_moved" in alts(test)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_figures(theme):
    frame = pd.DataFrame({"layer": [0, 0, 1], "expert": [0, 1, 0], "share_a": [0.5, 0.5, 1], "share_b": [0.25, 0.75, 1],
                          "difference": [-0.25, 0.25, 0]})  # fmt: skip
    heatmap = charts.difference_heatmap(frame, theme).data[0]
    z = np.asarray(heatmap.z, float)
    assert z[0].tolist() == [-0.5, 0.5]  # half a fair share of two experts
    assert np.isnan(z[1, 1])
    assert heatmap.zmin == -heatmap.zmax
    curves = pd.DataFrame({"layer": [0, 1], "a": [0.1, np.nan], "b": [0.2, 0.3]})
    names = ("<b>a</b>", "b")
    assert [t.name for t in charts.pair_curves(curves, theme, name="x", names=names).data] == [
        "&lt;b&gt;a&lt;/b&gt;",
        "b",
    ]
