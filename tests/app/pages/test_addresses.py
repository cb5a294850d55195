"""Anything may stand in the address: what is no choice counts as not chosen, for every choice of every page."""

import pytest

from app import state
from tests.app.pages.states import PAGES, running, settled, sound

NONSENSE = ["-1", "--5", "<img src=x onerror=alert(1)>", "1e999", "nan", "9" * 30, "\x00", "a" * 10_000]
TEXTS = (("tokens", "search"), ("steering", "spec"), ("sql", "sql"))
FREE = {"search", "marker_a", "marker_b", "sql", "spec"}  # any text is a choice
ABOUT = {"trace", "run", "job"}  # kept in the links of the page, whatever they say
CHOICES = {
    "overview": {"balance", "image"},
    "tokens": {"layer", "by", "expert", "sequence", "token", "label", "beside", "search"},
    "experts": {"layer", "expert"},
    "specialization": {"layer", "value", "order", "compare", "label_a", "label_b", "atlas", "method", "atlas_by"},
    "consistency": {"layer", "ahead", "expert_mib", "budget_gib", "link_gbs", "policy"},
    "uncertainty": {"sure", "unsure_layer", "layer", "p"},
    "super_experts": set(),
    "structure": {"layer", "expert", "pairs", "order", "flows", "clusters"},
    "pruning": {"criterion", "keep", "scope"},
    "steering": {"sequence"},
    "compare": {"with", "balance"},
    "sql": {"chart", "x", "y", "color"},
    "record": {"job"},
}


@pytest.fixture
def asked(monkeypatch):
    """The names of the choices that the pages have read from the address."""
    names, read = set(), state.read

    def noted(name):
        names.add(name)
        return read(name)

    monkeypatch.setattr(state, "read", noted)
    return names


def opened(open_page, page, trace, **choices):
    test = open_page([trace], page, run=2, **choices)
    return test.button(key="sql_run").click().run() if page == "sql" else test


QUICK, MORE = NONSENSE[:2], NONSENSE[2:]


@pytest.mark.parametrize("values", [QUICK, pytest.param(MORE, marks=pytest.mark.slow)], ids=["quick", "more"])
@pytest.mark.parametrize("page", PAGES)
def test_nonsense_counts_as_not_chosen(open_page, sample, asked, page, values):
    plain = settled(opened(open_page, page, sample))
    assert asked >= CHOICES[page]
    for nonsense in values:
        test = opened(open_page, page, sample, **dict.fromkeys(asked - FREE - ABOUT, nonsense))
        assert settled(test) == plain, nonsense
        assert not running(test)


@pytest.mark.parametrize("nonsense", NONSENSE[::3])
def test_nonsense_about_trace_run_and_recording(open_page, sample, nonsense):
    test = open_page([sample], trace=nonsense, run=nonsense, job=nonsense)
    assert "sample.duckdb  ·  run 2" in sound(test)
    assert not running(test)
    assert open_page([sample], "record", job=nonsense).text_input(key="record_model")


ANY = (*NONSENSE[::3], "%'; DROP TABLE runs; --", "ban:expert=1;" * 200, '{"name": "ban"}')


@pytest.mark.parametrize("text", ANY, ids=range(len(ANY)))
def test_any_text_may_be_looked_for(open_page, sample, text):
    tests = [open_page([sample], page, **{name: text}) for page, name in TEXTS]
    tests.append(open_page([sample], "specialization", compare="markers", marker_a=text, marker_b=text))
    for test in tests:
        sound(test)
        assert not running(test)


def test_a_number_out_of_range_is_no_choice_and_one_in_it_is(open_page, sample):
    half, few, none = (sound(open_page([sample], "pruning", **c)) for c in ({}, {"keep": 0.25}, {"keep": 7}))
    assert half == none != few
