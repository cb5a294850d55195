"""Every page over a trace that was really recorded: it is drawn, and what it is for is there."""

import pytest

from tests.app.pages.states import PAGES, charts_of, sound

CHARTS = {
    "overview": {"load", "entropy", "balance"},
    "tokens": {"token-entropy", "token-logits"},
    "experts": {"expert-labels"},
    "specialization": {"labels", "label-depth", "contrast"},
    "consistency": {"srp", "caches", "budget"},
    "uncertainty": {"uncertainty", "top-p", "needed"},
    "super_experts": {"maxima", "maxima-map", "massive"},
    "structure": {"coactivation", "ties", "flow", "information", "similarity", "clusters"},
    "pruning": {"importance", "agreement", "covered", "kept"},
    "compare": {"moved", "saturation", "entropies", "balances"},
}


WORDS = {"overview": "What stands out", "experts": "What is it worth?", "sql": "The views", "record": "The trace"}


@pytest.mark.parametrize("page", PAGES)
def test_every_page_shows_what_it_is_for(open_page, sample, page):
    test = open_page([sample], page, run=1, token=5)
    assert WORDS.get(page, "") in sound(test)
    assert set(charts_of(test)) == {f"chart_{name}" for name in CHARTS.get(page, ())}


def test_a_run_with_changed_routing_says_so(open_page, sample):
    assert "Routing was changed" in sound(open_page([sample], run=2))
    assert "Routing was changed" not in sound(open_page([sample], run=1))
    (plain,) = open_page([sample], "compare", run=2).selectbox(key="pick_with").options
    (steered,) = open_page([sample], "compare", run=1).selectbox(key="pick_with").options
    assert "routing changed" not in plain
    assert "routing changed" in steered
    for layer, expert in ((1, 3), (2, 5)):
        text = sound(open_page([sample], "experts", run=2, layer=layer, expert=expert))
        assert "It was never chosen." in text


def test_what_the_pages_ask_for_can_be_done(open_page, sample):
    steering = open_page([sample], "steering", run=1, spec="ban:expert=1.3")
    assert not next(button for button in steering.button if button.label == "Run").disabled
    sql = open_page([sample], "sql", run=2).button(key="sql_run").click().run()
    sound(sql)
    assert len(sql.dataframe[0].value)
    record = open_page([sample], "record")
    assert record.text_input(key="record_model").value.endswith("model")
    assert record.button(key="record_start")
