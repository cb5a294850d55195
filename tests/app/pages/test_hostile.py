"""Names from anywhere stay text on every page: of files, runs, models, layers, labels, tokens, uploads, the URL."""

import json

import pytest
from streamlit.testing.v1 import AppTest

from tests.app.conftest import show
from tests.app.pages.conftest import BAD_FILE, BAD_NAMES, IMG
from tests.app.pages.states import PAGES, running, sound
from tests.app.traces import Shape, write_trace

CHOICES = {"token": 4, "expert": 0, "label": IMG, "beside": "layer:1", "compare": "markers", "marker_a": IMG,
           "marker_b": BAD_NAMES[1]}  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
def test_names_stay_text(open_page, evil, page):
    test = open_page([evil], page, **CHOICES)
    sound(test)
    assert not running(test)


def test_names_are_shown_all_the_same(open_page, evil):
    text = sound(open_page([evil]))
    assert text.count("&lt;img src=x onerror=alert(1)&gt;") > 8
    assert IMG in str(open_page([evil], "tokens").selectbox(key="pick_sequence").options)


def test_a_name_cannot_turn_the_words_beside_it_around(open_page, evil):
    """Bidirectional marks in the names of a file and a run are shown as what they are."""
    text = sound(open_page([evil]))
    line = text[text.index('class="rw-eyebrow"') :].split("</div>")[0]
    assert "\u202e" not in line
    assert "U+202Ex" in line


def drawing(call, text):
    def script(call, text):
        import streamlit

        getattr(streamlit, call)(text)

    return AppTest.from_function(script, args=(call, text)).run()


HTML = (f"<p>{IMG}</p>", "<a href='javascript:x()'>", "<b onclick=x()>")
MARKDOWN = ("markdown", "button", "expander", "error", "checkbox")


@pytest.mark.parametrize(("call", "text"), [*(("html", t) for t in HTML), *((call, BAD_NAMES[1]) for call in MARKDOWN)])
def test_the_look_out_would_notice(call, text):
    assert running(drawing(call, text))


QUICK = ("overview", "specialization", "compare", "record")


@pytest.mark.parametrize("page", [p if p in QUICK else pytest.param(p, marks=pytest.mark.slow) for p in PAGES])
def test_a_bad_name_among_others(open_page, evil, tmp_path, page):
    """In the picker of traces, and as the other one of Compare."""
    other = write_trace(tmp_path / "other.duckdb", Shape(sequences=4, length=24, layers=2, experts=8))
    test = open_page([other, evil], page, trace=BAD_FILE)
    assert "&lt;img" in sound(test) or page == "record"
    assert not running(test)


def test_a_bad_name_that_goes_or_is_no_trace(open_page, tmp_path):
    path = write_trace(tmp_path / BAD_FILE, Shape(sequences=1, length=2, layers=1))
    test = open_page([path])
    path.write_text(IMG)
    for says, page in (("cannot be read", "overview"), ("is not there", "sql")):
        assert says in sound(show(test, page))
        assert not running(test)
        path.unlink(missing_ok=True)


def test_a_query_over_bad_names(open_page, evil):
    test = open_page([evil], "sql", sql=f"""SELECT label AS "{IMG}", count(*) AS "![x](y)" FROM sequences GROUP BY 1""")
    test.button(key="sql_run").click().run()
    sound(test)
    assert len(test.dataframe[0].value) == len(BAD_NAMES)
    assert not running(test)


@pytest.mark.parametrize("what", ["experts", "tokens"])
def test_the_map_over_bad_names(open_page, evil, what):
    test = open_page([evil], "specialization", atlas=what, method="pca", atlas_by="label")
    next(button for button in test.button if button.label == "Draw the map").click().run()
    sound(test)
    assert not running(test)


def measured(**changes):
    row = {"task": IMG, "measure": BAD_NAMES[1], "unit": IMG, "arm": "expert_importance:criterion=reap,keep=0.5",
           "value": 0.5, "low": 0.4, "high": 0.6, "n": 9, "baseline": 0.7, "control": 0.3}  # fmt: skip
    return json.dumps({"rows": [row | changes]})


MEASURED = (measured(), measured(low=None, high=None, baseline=None, control=None))


@pytest.mark.parametrize("content", [*MEASURED, measured(value=None), "[" * 100_000], ids=range(4))
def test_a_bad_result_on_the_pruning_page(open_page, traces, content):
    test = open_page([traces["plain"]], "pruning")
    test.file_uploader(key="pruning_result").set_value((f"{IMG}.json", content.encode(), "application/json")).run()
    text = sound(test)
    assert ("measured points" if content in MEASURED else "rw-problem") in text
    assert not running(test)
