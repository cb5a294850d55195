"""The longest lists' tops on the pages are of all tokens, however few sequences a page reads for its intervals."""

import html
import re

import numpy as np
import pytest

from app import data
from probes.analysis import analyze
from store import page_queries
from store.trace import open_trace
from tests.app.conftest import shown
from tests.app.traces import Shape, write_trace


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    return write_trace(tmp_path_factory.mktemp("extremes") / "many.duckdb", Shape(sequences=40))


@pytest.fixture
def few(monkeypatch):
    """Pages read three sequences."""
    monkeypatch.setattr(data, "drawn", lambda trace, run_id, most_rows=0: ([1, 2, 3], 180))


def test_the_least_certain_tokens_of_the_page_are_those_of_the_finding(open_page, trace, few):
    from probes.findings import overview

    text = shown(open_page([trace], "uncertainty"))
    first = re.search(r"(\d+) · (\d+)</a>", text)
    fact = next(f for f in overview(open_trace(trace), resamples=20) if f.title == "The most uncertain tokens")
    assert f"(sequence {first[1]}, position {first[2]})" in fact.text.split(";")[0]
    assert "all 2,400 tokens of 40 sequences" in html.unescape(text)


def test_lists_of_tokens_and_sequences_are_of_all(open_page, trace, few):
    assert "all 40 sequences (2,400 tokens)" in shown(open_page([trace], "experts", layer=1, expert=3))
    assert "= 2,400 tokens of 40 sequences, all" in shown(open_page([trace], "specialization", layer=1))


def test_the_clearest_tokens_of_an_expert_are_the_metrics(trace):
    from app.tables.experts import token_scores

    opened = open_trace(trace)
    totals, some = (
        page_queries.token_totals(opened, 1, 1, 3),
        page_queries.token_counts(opened, 1, 1, 3, [1, 2, 3, 4, 5, 6, 7, 8]),
    )
    found = token_scores(some, totals, 40)
    metric = analyze(trace, "npmi", target="token", layers=[1])
    mine = metric[(metric["expert"] == 3) & (metric["n_x"] >= 10) & (metric["n_xy"] > 0)]
    np.testing.assert_allclose(found["npmi"], mine.sort_values("npmi", ascending=False)["npmi"].head(len(found)))
    assert found["total"].iloc[0] == 2400


def test_none_means_all_sequences(trace):
    opened = open_trace(trace)
    every = list(range(40))
    for ask, where in (
        (page_queries.token_entropies, (1, None, every, 5)),
        (page_queries.uncertain_contexts, (1, None, every, 3, 9)),
        (page_queries.contexts, (1, 1, 3, every, 3, 9)),
        (page_queries.token_experts, (1, 1, every, 5, 99)),
        (page_queries.firing_sequences, (1, 1, 3, None, every, 9)),
    ):
        at = next(i for i, value in enumerate(where) if value is every)
        whole = ask(opened, *(None if i == at else value for i, value in enumerate(where)))
        assert len(whole)
        assert whole.to_dict("list").keys() == ask(opened, *where).to_dict("list").keys()
        assert [str(v) for v in whole.iloc[0]] == [str(v) for v in ask(opened, *where).iloc[0]]
