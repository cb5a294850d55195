"""Experts: the card says what the trace says, links lead on, and every state of a trace has a card."""

import numpy as np
import pandas as pd
import pytest

from app.tables.experts import alike, token_scores
from probes.analysis import analyze
from probes.metrics.npmi import pmi_npmi
from store import page_queries
from store.trace import open_trace
from tests.app.conftest import shown
from tests.app.pages.states import charts_of


class TestThePage:
    def test_tells_the_story(self, open_page, traces):
        test = open_page([traces["plain"]], "experts", layer=3, expert=5)
        assert not test.exception
        text = shown(test)
        assert "Layer 3 · expert 5" in text
        load = analyze(traces["plain"], "load").set_index(["layer", "expert"])
        assert f'<div class="value">{load.loc[(3, 5), "count"]:,}</div>' in text
        for question in (
            "Which labels",
            "Which tokens",
            "Where does it fire",
            "Chosen together with",
            "Most similar experts",
            "worth?",
        ):
            assert question in text
        assert set(charts_of(test)) == {"chart_expert-labels"}
        assert "./steering?spec=ban%3Alayer%3D3%2Cexpert%3D5" in text
        assert "<mark>" in text

    def test_the_busiest_expert_comes_first(self, open_page, traces):
        load = analyze(traces["plain"], "load")
        busiest = load[load["layer"] == 3].set_index("expert")["count"].idxmax()
        assert f"Layer 3 · expert {busiest}" in shown(open_page([traces["plain"]], "experts"))

    def test_criteria_are_those_the_trace_allows(self, open_page, traces):
        text = shown(open_page([traces["plain"]], "experts", layer=3, expert=5))
        assert "soft_frequency" in text
        assert "reap" in text
        assert "max_activation" not in text  # no maxima were recorded
        assert "mone" not in text

    @pytest.mark.parametrize("name", ["hostile", "bare", "long"])
    def test_other_traces(self, open_page, traces, name):
        test = open_page([traces[name]], "experts")
        assert not test.exception
        assert "<img" not in shown(test)

    def test_without_labels_text_weights_and_norms(self, open_page, unlabelled):
        test = open_page([unlabelled], "experts")
        assert not test.exception
        assert "Which labels" not in shown(test)

    @pytest.mark.parametrize("choices", [{"layer": 77}, {"expert": 99}, {"expert": "<b>"}])
    def test_nonsense_counts_as_not_chosen(self, open_page, traces, choices):
        assert not open_page([traces["plain"]], "experts", **choices).exception


class TestTokens:
    def test_scores_are_the_metric(self, traces):
        trace = open_trace(traces["plain"])
        counts = page_queries.token_counts(trace, 1, 2, 3, trace.drawn(1)["sequence_id"].tolist())
        found = token_scores(counts)
        metric = analyze(trace, "npmi", target="token", layers=[2])
        mine = metric[(metric["expert"] == 3) & (metric["n_x"] >= 10) & (metric["n_xy"] > 0)]
        top = mine.sort_values("npmi", ascending=False).head(len(found))
        np.testing.assert_allclose(found["npmi"], top["npmi"])
        assert found[["low", "high"]].notna().all(axis=None)
        assert ((found["low"] <= found["npmi"] + 0.05) & (found["npmi"] <= found["high"] + 0.05)).all()

    def test_an_interval_needs_sequences(self):
        counts = pd.DataFrame(
            {"sequence_id": [0, 1], "token_id": [7, 7], "token": "a", "n": [20, 20], "chosen": [9, 8]}
        )
        found = token_scores(counts)
        assert found["npmi"].iloc[0] == pytest.approx(pmi_npmi(17, 40, 17, 40)[1])
        assert found["low"].isna().all()

    def test_contexts_hold_the_token(self, traces):
        trace = open_trace(traces["plain"])
        ids = trace.drawn(1)["sequence_id"].tolist()
        for row in page_queries.contexts(trace, 1, 2, 3, ids, 4, 5).itertuples():
            (token,) = page_queries.tokens(trace, 1, row.sequence_id, 2, row.position, 1).itertuples()
            assert row.tokens[row.position - row.first] == token.token
            assert token.experts[row.rank - 1] == 3
            assert token.weights[row.rank - 1] == pytest.approx(row.weight)

    def test_alike(self):
        rows = pd.DataFrame({"expert": [0, 2, 5]})
        found = alike(rows, np.array([[1.0, 0], [0.8, 0.6], [0, 1.0]]), 2)
        assert found.to_numpy().tolist() == [[0, 0.8], [5, 0.6]]
        assert alike(rows, np.eye(3), 4).empty


def test_what_was_recorded(traces):
    full, bare = (page_queries.recorded(open_trace(traces[name]), 1) for name in ("plain", "bare"))
    assert full == {"weights": True, "norms": True, "maxima": False, "logits": True, "hidden": False, "moments": False}
    assert not any(bare[name] for name in ("norms", "maxima", "logits", "hidden", "moments"))
