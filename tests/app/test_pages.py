"""Both pages over real traces: full, hostile, without logits, empty, being recorded, missing, and none at all."""

import json
import warnings
from pathlib import Path

import pytest

import app.pages
from app.overview_facts import facts
from app.pages import SECTIONS, discover
from app.trace_file import identify
from probes.analysis import analyze
from store import database, page_queries
from store.trace import open_trace
from tests.app.conftest import show, shown
from tests.app.traces import Shape, batches, open_writer, recording_trace, write_trace


def charts_of(test):
    """Keys of the charts on a page, and what each says to who cannot see it."""
    charts = [element.proto for element in test.get("plotly_chart") if element.proto.alt]
    return {"chart_" + proto.id.split("-chart_")[-1]: proto for proto in charts}


def strips_of(test):
    """What the token strips were given."""
    return [json.loads(part.proto.json) for part in test.get("bidi_component") if "strip" in part.proto.component_name]


def strip_of(test):
    """What the only token strip was given."""
    (strip,) = strips_of(test)
    return strip


def chosen(test, name):
    """A choice as the URL has it."""
    value = test.query_params[name]
    return value if isinstance(value, str) else value[-1]


def test_pages_are_found_and_described():
    pages = [page for page, _ in discover()]
    assert [page.name for page in pages][:2] == ["overview", "tokens"]
    assert len({page.name for page in pages}) == len({page.title for page in pages}) == len(pages)
    assert {page.name for page in pages} == {path.stem for path in Path(app.pages.__file__).parent.glob("[a-z]*.py")}
    assert all(page.icon.startswith(":material/") and page.section in SECTIONS for page in pages)


class TestOverview:
    def test_tells_the_whole_story(self, open_page, traces):
        test = open_page([traces["plain"]])
        assert not test.exception
        text = shown(test)
        for question in ("Who carries the load?", "How sure are the routers?", "How evenly", "Is anything missing?"):
            assert question in text
        assert "1,440 tokens" in text
        assert "example/tiny-moe" in text
        assert "Nothing is missing" in text
        assert set(charts_of(test)) == {"chart_load", "chart_entropy", "chart_balance"}

    def test_every_chart_has_words_and_rows(self, open_page, traces):
        test = open_page([traces["hostile"]])
        assert not test.exception
        charts = charts_of(test)
        assert set(charts) == {"chart_load", "chart_entropy", "chart_balance", "chart_coverage"}
        assert all(len(proto.alt) > 40 for proto in charts.values())
        assert len(test.get("download_button")) == len(charts)

    def test_provenance_is_readable(self, open_page, traces):
        text = shown(open_page([traces["plain"]]))
        assert "<dt>revision</dt><dd>0123abc</dd>" in text
        assert "<dt>torch</dt><dd>2</dd>" in text

    def test_findings_stand_on_top(self, open_page, traces):
        pytest.importorskip("probes.findings")
        bodies = [str(element.proto.body) for element in open_page([traces["plain"]]).get("html")]
        assert next(i for i, body in enumerate(bodies) if "What stands out" in body) < next(
            i for i, body in enumerate(bodies) if "Who carries the load?" in body
        )

    def test_each_finding_leads_to_the_page_that_shows_it(self, open_page, traces):
        text = shown(open_page([traces["plain"]]))
        for page in ("specialization", "uncertainty", "experts"):
            assert f'href="./{page}' in text

    def test_what_only_single_tokens_tell_follows(self, open_page, traces):
        test = open_page([traces["plain"]])
        facts(identify(str(traces["plain"])), 1).result(timeout=60)
        text = shown(test.run())
        assert "being worked out" not in text
        assert "What a cache of experts would hit" in text
        assert "./specialization?label_a=" in text

    def test_without_logits_it_says_what_is_needed(self, open_page, traces):
        test = open_page([traces["bare"]])
        assert not test.exception
        assert "needs router logits" in shown(test)
        assert "chart_entropy" not in charts_of(test)
        assert "No interval:" in shown(test)  # three sequences say too little

    def test_missing_rows_are_counted(self, open_page, traces):
        assert "no routing" in shown(open_page([traces["hostile"]]))

    @pytest.mark.parametrize("measure", ["cv", "max ÷ mean", "gini"])
    def test_the_measure_of_balance_comes_from_the_url(self, open_page, traces, measure):
        test = open_page([traces["plain"]], balance=measure)
        assert not test.exception
        assert test.segmented_control(key="pick_balance").value == measure


class TestTokens:
    def test_shows_the_text_and_asks_for_a_token(self, open_page, traces):
        test = open_page([traces["plain"]], "tokens")
        assert not test.exception
        strip = strip_of(test)
        assert len(strip["tokens"]) == 60
        assert strip["kind"] == "category"
        assert all(token["color"] for token in strip["tokens"])
        assert "No token chosen" in shown(test)

    def test_a_token_through_all_layers(self, open_page, traces):
        test = open_page([traces["plain"]], "tokens", token=5)
        text = shown(test)
        assert text.count("rw-chip") == 4 * 2
        assert "position 5 (0 to 59)" in text
        assert "norm" in text
        assert "chart_token-entropy" in charts_of(test)

    @pytest.mark.parametrize("by", ["expert", "entropy", "margin", "weight", "surprisal"])
    def test_colours(self, open_page, traces, by):
        test = open_page([traces["hostile"]], "tokens", by=by, layer=2)
        assert not test.exception
        strip = strip_of(test)
        assert strip["kind"] == ("category" if by == "expert" else "amount")
        assert sum(token["color"] is not None for token in strip["tokens"]) == len(strip["tokens"])

    def test_tokens_without_routing_have_no_colour_and_say_why(self, open_page, traces):
        strip = strip_of(open_page([traces["hostile"]], "tokens", layer=0, sequence=1))
        assert strip["tokens"][0]["color"] is None
        assert "cached prefix" in strip["tokens"][0]["note"]
        assert strip["tokens"][10]["color"]

    def test_without_logits(self, open_page, traces):
        test = open_page([traces["bare"]], "tokens", by="entropy", token=3)
        assert not test.exception
        assert "No entropy here" in shown(test)
        assert "chart_token-entropy" not in charts_of(test)

    def test_hostile_tokens_stay_text(self, open_page, traces):
        test = open_page([traces["hostile"]], "tokens", sequence=0)
        for position in (0, 1, 2, 3, 5, 18):
            test.query_params["token"] = str(position)
            test.run()
            assert not test.exception
            text = shown(test)
            for tag in ("<img", "<script", "</span><b>bold", "<b>bold"):
                assert tag not in text
        assert not test.markdown
        pieces = ["".join(text for _, text in token["pieces"]) for token in strip_of(test)["tokens"]]
        assert "<img␣src=x␣onerror=alert(1)>" in pieces
        assert "U+202EabcU+202C" in pieces

    def test_an_expert_fades_the_tokens_that_did_not_choose_it(self, open_page, traces):
        test = open_page([traces["plain"]], "tokens", expert=3)
        faded = sum(token["faded"] for token in strip_of(test)["tokens"])
        assert 0 < faded <= 60
        assert f"{60 - faded} tokens of 60 chose expert 3" in shown(test)

    def test_a_long_sequence_is_shown_in_pages(self, open_page, traces):
        test = open_page([traces["long"]], "tokens", token=650)
        strip = strip_of(test)
        assert strip["tokens"][0]["position"] == 600
        assert (strip["before"], strip["after"], strip["selected"]) == (599, 1200, 650)
        later = next(button for button in test.button if button.label == "Later")
        later.click().run()
        assert chosen(test, "token") == "1200"
        assert strip_of(test)["tokens"][-1]["position"] == 1499

    def test_search_and_label(self, open_page, traces):
        test = open_page([traces["plain"]], "tokens", search="bridge")
        options = test.selectbox(key="pick_sequence").options
        assert options
        assert all("prose" in option for option in options)
        assert "No sequence has" in shown(open_page([traces["plain"]], "tokens", search="no such words"))
        labelled = open_page([traces["plain"]], "tokens", label="code").selectbox(key="pick_sequence").options
        assert len(labelled) == 6

    def test_the_logits_of_a_token_against_the_rest(self, open_page, traces):
        test = open_page([traces["plain"]], "tokens", token=5, layer=3)
        assert any(part.proto.id.endswith("chart_token-logits") for part in test.get("plotly_chart"))
        assert "The last expert chosen" in shown(test)
        bare = open_page([traces["bare"]], "tokens", token=5)
        assert "The last expert chosen" not in shown(bare)

    def test_two_layers_side_by_side(self, open_page, traces):
        test = open_page([traces["plain"]], "tokens", layer=1, beside="layer:4", token=5)
        assert not test.exception
        strips = strips_of(test)
        assert len(strips) == 2
        assert [strip["selected"] for strip in strips] == [5, 5]
        assert [token["color"] for token in strips[0]["tokens"]] != [token["color"] for token in strips[1]["tokens"]]
        assert "layer 1" in shown(test)
        assert "layer 4" in shown(test)

    def test_two_runs_side_by_side(self, open_page, tmp_path):
        path = write_trace(tmp_path / "two.duckdb", Shape(sequences=2))
        write_trace(path, Shape(sequences=1))
        test = open_page([path], "tokens", run=1, beside="run:2")
        assert not test.exception
        assert len(strips_of(test)) == 2
        assert "60 of 60 tokens here have the same experts in both" in shown(test)
        gone = open_page([path], "tokens", run=1, beside="run:2", sequence=1)
        assert "Run 2 has no tokens of sequence 1" in shown(gone)
        assert not gone.exception

    def test_where_an_expert_fires(self, open_page, traces):
        test = open_page([traces["plain"]], "tokens", layer=3, expert=7)
        text = shown(test)
        assert "Where does expert 7 of layer 3 fire?" in text
        load = analyze(traces["plain"], "load", layers=[3]).set_index("expert")["count"]
        trace = open_trace(traces["plain"])
        every = trace.drawn(1)["sequence_id"].tolist()
        found = page_queries.firing_sequences(trace, 1, 3, 7, None, every, 100)
        assert found["n_fired"].sum() == load[7]
        assert f"sequence={found['sequence_id'].iloc[0]}" in text


class TestTheUrl:
    def test_holds_every_choice(self, open_page, traces):
        test = open_page([traces["plain"]], "tokens")
        test.selectbox(key="pick_layer").set_value(2).run()
        test.segmented_control(key="pick_by").set_value("margin").run()
        test.selectbox(key="pick_sequence").set_value(4).run()
        assert [chosen(test, name) for name in ("layer", "by", "sequence")] == ["2", "margin", "4"]
        again = open_page([traces["plain"]], "tokens", layer=2, by="margin", sequence=4)
        assert strip_of(again)["label"].startswith("Sequence 4")
        assert again.selectbox(key="pick_layer").value == 2

    def test_a_new_sequence_forgets_the_token(self, open_page, traces):
        test = open_page([traces["plain"]], "tokens", token=5)
        test.selectbox(key="pick_sequence").set_value(2).run()
        assert "token" not in test.query_params

    def test_choices_go_along_to_another_page(self, open_page, traces):
        test = open_page([traces["plain"], traces["long"]], trace="long.duckdb")
        assert "long.duckdb" in shown(test)
        for name in list(test.query_params):
            del test.query_params[name]  # what going to another page does in a browser
        show(test, "tokens")
        assert chosen(test, "trace") == "long.duckdb"
        assert "long.duckdb" in shown(test)

    @pytest.mark.parametrize(
        "choices",
        [
            {"layer": "99"}, {"layer": "<b>"}, {"sequence": "-1"}, {"sequence": "x' OR 1=1"}, {"token": "999999"},
            {"token": "-5"}, {"token": "1e9"}, {"expert": "77"}, {"by": "nothing"}, {"run": "12"}, {"trace": "../etc"},
            {"search": "%'; DROP TABLE runs; --"}, {"label": "none such"}, {"image": "exe"}, {"balance": "x"},
        ],
    )  # fmt: skip
    def test_nonsense_counts_as_not_chosen(self, open_page, traces, choices):
        page = "overview" if choices.keys() & {"run", "trace", "image", "balance"} else "tokens"
        assert not open_page([traces["plain"]], page, **choices).exception


class TestStates:
    def test_no_trace(self, open_page):
        test = open_page([])
        assert not test.exception
        assert "No trace to look at yet" in shown(test)
        assert "probe record" in shown(test)

    def test_a_missing_trace(self, open_page, tmp_path):
        assert "The trace is not there" in shown(open_page([tmp_path / "gone.duckdb"]))

    def test_not_a_trace(self, open_page, tmp_path):
        fake = tmp_path / "<b>fake.duckdb"
        fake.write_text("hello")
        test = open_page([fake])
        assert not test.exception
        assert "The trace cannot be read" in shown(test)
        assert "<b>fake" not in shown(test)

    def test_a_file_without_a_run(self, open_page, tmp_path):
        path = tmp_path / "empty.duckdb"
        database.create_file(path)
        assert "The trace is empty" in shown(open_page([path]))

    @pytest.mark.parametrize("page", ["overview", "tokens"])
    def test_a_run_without_rows(self, open_page, tmp_path, page):
        path = tmp_path / "norows.duckdb"
        with open_writer(path, Shape()):
            test = open_page([path], page)
            assert not test.exception
            assert "yet" in shown(test)
            assert "recording" in shown(test) or page == "tokens"

    def test_a_recording_grows_by_itself(self, open_page, tmp_path):
        path = tmp_path / "growing.duckdb"
        with recording_trace(path, Shape(sequences=128)) as writer:
            test = open_page([path])
            assert not test.exception
            assert "recording" in shown(test)
            assert "3,840 tokens" in shown(test)
            writer.write(list(batches(Shape(sequences=128)))[1])
        test.run()
        assert "7,680 tokens" in shown(test)
        assert "complete" in shown(test)

    def test_several_runs_can_be_chosen(self, open_page, tmp_path):
        path = write_trace(tmp_path / "two.duckdb", Shape(sequences=2))
        write_trace(path, Shape(sequences=3))
        test = open_page([path])
        assert test.selectbox(key="pick_run").value == 2
        assert "3 sequences" in shown(test)
        test.selectbox(key="pick_run").set_value(1).run()
        assert "2 sequences" in shown(test)
        assert chosen(test, "run") == "1"


def test_pages_warn_of_nothing(open_page, traces):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not open_page([traces["plain"]], "tokens", token=3).exception
