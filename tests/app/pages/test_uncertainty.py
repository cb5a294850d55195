"""Uncertainty: the numbers of the metric, words for what is missing, hostile tokens as text."""

import numpy as np
import pandas as pd
import pytest

from app import charts
from app.tables.uncertainty import MEASURES, by_label, overall
from probes.analysis import analyze
from store import page_queries
from store.trace import open_trace
from tests.app.conftest import shown
from tests.app.pages.states import charts_of


class TestThePage:
    def test_tells_the_story(self, open_page, traces):
        test = open_page([traces["plain"]], "uncertainty")
        assert not test.exception
        assert set(charts_of(test)) == {"chart_uncertainty", "chart_top-p", "chart_needed"}
        text = shown(test)
        entropy = analyze(traces["plain"], "routing_entropy").set_index("layer")["normalized_mean"]
        assert f"to {entropy.max():.3f} in layer {entropy.idxmax()}" in text
        assert "./tokens?by=entropy&amp;" in text
        assert "<mark>" in text

    @pytest.mark.parametrize("choices", [{"sure": "margin"}, {"sure": "effective"}, {"unsure_layer": 3}, {"p": "0.9"}])
    def test_choices(self, open_page, traces, choices):
        assert not open_page([traces["hostile"]], "uncertainty", **choices).exception

    def test_hostile_tokens_stay_text(self, open_page, traces):
        text = shown(open_page([traces["hostile"]], "uncertainty"))
        assert "<img" not in text
        assert "<script" not in text

    @pytest.mark.parametrize("name", ["bare", "unlabelled"])
    def test_without_logits_it_says_what_is_needed(self, open_page, traces, unlabelled, name):
        test = open_page([unlabelled if name == "unlabelled" else traces[name]], "uncertainty")
        assert not test.exception
        assert "--capture logits" in shown(test)
        assert not charts_of(test)


class TestNumbers:
    @pytest.mark.parametrize(
        ("name", "column"),
        [("entropy", "normalized_mean"), ("effective", "effective_experts"), ("margin", "margin_mean")],
    )
    def test_are_those_of_the_metric(self, traces, name, column):
        trace = open_trace(traces["plain"])
        layers, sums = trace.layers(1), page_queries.label_uncertainty(trace, 1)
        sampled = page_queries.sequence_uncertainty(trace, 1, trace.drawn(1)["sequence_id"].tolist())
        whole = overall(sums, sampled, layers, MEASURES[name], 24)
        metric = analyze(trace, "routing_entropy")
        np.testing.assert_allclose(whole["value"], metric[column], rtol=1e-4)
        assert (whole["low"] < whole["high"]).all()
        each = by_label(sums, layers, MEASURES[name]).dropna(subset=["label"])
        metric = analyze(trace, "routing_entropy", by="label").set_index(["layer", "label"])[column]
        for row in each.itertuples():
            assert row.value == pytest.approx(metric[(row.layer, row.label)], rel=1e-3)

    def test_tokens_are_ordered_and_in_their_place(self, traces):
        trace = open_trace(traces["plain"])
        ids = trace.drawn(1)["sequence_id"].tolist()
        found = page_queries.uncertain_contexts(trace, 1, 2, ids, 3, 6)
        assert found["entropy"].is_monotonic_decreasing
        for row in found.itertuples():
            (token,) = page_queries.tokens(trace, 1, row.sequence_id, 2, row.position, 1).itertuples()
            assert token.entropy == pytest.approx(row.entropy)
            assert row.tokens[row.position - row.first] == token.token
        mean = page_queries.uncertain_contexts(trace, 1, None, ids, 3, 1).iloc[0]
        through = page_queries.token_layers(trace, 1, int(mean["sequence_id"]), int(mean["position"]))
        assert mean["entropy"] == pytest.approx(through["entropy"].mean())

    def test_kinds_of_token(self, traces):
        trace = open_trace(traces["plain"])
        table = page_queries.token_entropies(trace, 1, 2, trace.drawn(1)["sequence_id"].tolist(), 1)
        metric = analyze(trace, "routing_entropy", by="token", layers=[2])
        assert table["entropy"].max() == pytest.approx(metric["entropy_mean"].max(), rel=1e-4)
        assert table["n"].sum() == metric["n_tokens"].sum() == 1440


@pytest.mark.parametrize("theme", ["light", "dark"])
class TestFigures:
    def test_lines(self, theme):
        whole = pd.DataFrame({"layer": [0, 1], "value": [0.5, 0.6], "low": 0.4, "high": 0.7, "n": 9})
        labels = pd.DataFrame({"layer": [0, 1], "label": "<b>", "value": [0.3, 0.9], "n": 4})
        figure = charts.label_lines(whole, labels, theme, name="x")
        assert [trace.name for trace in figure.data][-2:] == ["&lt;b&gt;", "all tokens"]
        assert figure.layout.yaxis.range[1] > 0.9

    def test_needed(self, theme):
        figure = charts.needed_bars(np.array([5, 3, 2, 0]), 2, theme)
        assert list(figure.data[0].y) == [0.5, 0.3, 0.2, 0]
        assert len(set(figure.data[0].marker.color)) == 2

    def test_curve(self, theme):
        frame = pd.DataFrame(
            {"layer": [0, 1], "p": 0.5, "mean": [2.0, 3.0], "ci_low": 1.0, "ci_high": 4.0, "n_tokens": 9}
        )
        names = [trace.name for trace in charts.needed_curve(frame, theme, top_k=2).data]
        assert names[-2:] == ["p = 0.5", "top-k of this model: 2"]
