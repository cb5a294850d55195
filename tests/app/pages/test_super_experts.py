"""Super experts: found by the metric's own rule, with the token that did it, and one click to ban them."""

import numpy as np
import pandas as pd
import pytest

from app import charts
from probes.analysis import analyze
from probes.findings.stored import Stored, stored_maxima
from store import page_queries
from store.trace import open_trace
from tests.app.conftest import shown
from tests.app.pages.states import charts_of


class TestThePage:
    def test_tells_the_story(self, open_page, measured):
        test = open_page([measured], "super_experts")
        assert not test.exception
        assert set(charts_of(test)) == {"chart_maxima", "chart_maxima-map"}
        text = shown(test)
        assert "names 1 super expert of 32 experts" in text
        assert "is that of expert 2 of layer 1" in text
        assert "first position of a sequence" in text
        assert "./steering?spec=ban%3Aexpert%3D1.2" in text
        assert "./steering?spec=ban%3Alayer%3D1%2Cexpert%3D2" in text
        assert "layer=1&amp;expert=2&amp;sequence=3&amp;token=0" in text
        assert "<img" not in text

    @pytest.mark.parametrize("name", ["plain", "bare", "hostile"])
    def test_without_maxima_it_says_what_is_needed(self, open_page, traces, name):
        test = open_page([traces[name]], "super_experts")
        assert not test.exception
        assert "--capture norms" in shown(test)


def test_the_stored_maxima_give_the_metric(measured):
    trace = open_trace(measured)
    stored, metric = stored_maxima(Stored(trace, 1)), analyze(trace, "super_experts")
    for column in ("max_abs_output", "threshold_percentile", "threshold_tenth", "is_super", "position", "sequence_id"):
        pd.testing.assert_series_equal(stored[column], metric[column], check_dtype=False)


def test_places_hold_their_tokens(traces):
    trace = open_trace(traces["plain"])
    found = page_queries.places(trace, 1, [3, 3, 5], [0, 0, 7], 2)
    assert found[["sequence_id", "position"]].to_numpy().tolist() == [[3, 0], [5, 7]]
    assert [len(row.tokens) for row in found.itertuples()] == [3, 5]
    for row in found.itertuples():
        assert row.tokens[row.position - row.first] == row.token


def frame():
    rows = pd.DataFrame({"layer": [0, 0, 3, 3], "expert": [0, 1, 0, 1], "max_abs_output": [1.0, 900.0, 2.0, 3.0]})
    return rows.assign(
        is_super=[False, True, False, False], threshold_percentile=800.0, threshold_tenth=90.0, hover="h"
    )


@pytest.mark.parametrize("theme", ["light", "dark"])
class TestFigures:
    def test_strip_draws_both_thresholds(self, theme):
        figure = charts.maxima_strip(frame(), theme, scope=3)
        assert [trace.name for trace in figure.data] == [
            "expert", "super expert", "99.5th percentile: 800", "a tenth of the largest: 90.0",
        ]  # fmt: skip
        assert figure.layout.yaxis.type == "log"
        assert {note.text for note in figure.layout.annotations} == {"0·1", "not looked at by the rule"}

    def test_map_is_on_a_log_scale(self, theme):
        figure = charts.maxima_heatmap(frame(), theme)
        np.testing.assert_allclose(np.asarray(figure.data[0].z, float), np.log10([[1, 900], [2, 3]]))
        assert "NaN" not in figure.to_json()
