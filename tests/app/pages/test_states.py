"""Every page in every state of a trace: nothing in it, being recorded, imported, tiny, gone, or no trace at all.

What costs a recording or a file is done once, and all pages are looked at in turn.
"""

import duckdb
import pytest

from app import data, ui
from probes.errors import ProbeError
from store import database
from store.errors import TraceError
from store.parquet import export_parquet
from store.trace import open_trace
from tests.app.conftest import show
from tests.app.pages.states import ABOUT_A_TRACE, PAGES, charts_of, sound
from tests.app.traces import Shape, batches, open_writer, recording_trace, write_trace

NOT_YET = {
    "tokens": "No sequence has been recorded yet", "steering": "is not a folder on this machine",
    "compare": "no other run to compare with", "sql": "Ask the trace anything",
}  # fmt: skip
SMALL = {
    "one token": Shape(sequences=1, length=1, layers=1, experts=4, top_k=1),
    "one sequence": Shape(sequences=1, experts=2, top_k=2),  # and every expert always chosen
    "one layer": Shape(sequences=12, layers=1, first_layer=3, top_k=1),
    "an empty layer": Shape(sequences=12, length=4, missing=True),  # the first: its tokens have no routing
}


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    return {name: write_trace(folder / f"{name}.duckdb", shape) for name, shape in SMALL.items()}


@pytest.fixture(scope="session")
def shards(small, tmp_path_factory):
    """One of the small traces as Parquet files, under the same name, which the pages show."""
    folder = tmp_path_factory.mktemp("shards") / small["one layer"].name
    export_parquet(open_trace(small["one layer"]), folder)
    return folder


def test_a_file_without_a_run(open_page, tmp_path):
    path = tmp_path / "empty.duckdb"
    database.create_file(path)
    for page in PAGES:
        text = sound(open_page([path], page))
        assert ("The trace is empty" in text) == (page in ABOUT_A_TRACE), page


def test_a_run_without_rows(open_page, tmp_path):
    path = tmp_path / "norows.duckdb"
    with open_writer(path, Shape()):
        for page in PAGES:
            text = sound(open_page([path], page))
            assert page not in ABOUT_A_TRACE or NOT_YET.get(page, "No routing has been recorded yet") in text, page
    for page in PAGES:
        text = sound(open_page([path], page))
        assert "recorded yet" not in text, page
        assert page in {"record", *NOT_YET} or "This run holds no routing" in text, page


GROWS = {  # what a page says of 1,280 tokens in 64 sequences, and then of twice as many
    "tokens": ("64 found", "128 found"),
    "super_experts": ("", ""),  # maxima were not recorded
    "sql": ("", ""),
    "compare": ("", ""),
    "steering": ("", ""),
}


def test_a_recording_is_shown_and_then_more_of_it(open_page, tmp_path):
    shape = Shape(sequences=128, length=20, layers=2, experts=8)
    path = tmp_path / "growing.duckdb"
    with recording_trace(path, shape) as writer:
        tests = {page: open_page([path], page) for page in ABOUT_A_TRACE}
        for page, test in tests.items():
            first, then = GROWS.get(page, ("1,280 tokens", "2,560 tokens"))
            assert first in said(test), page
            assert not then or then not in said(test), page
        writer.write(list(batches(shape))[1])
    for page, test in tests.items():
        assert GROWS.get(page, ("", "2,560 tokens"))[1] in said(test.run()), page


def said(test):
    """The HTML of a sound page and the names of its pickers."""
    return " ".join([sound(test), *(box.label for box in test.selectbox)])


IMPORTED = {  # what each page says it lacks
    "overview": "needs router logits", "tokens": "position 3 (0 to 14) · token id –",
    "experts": "Where does it fire hardest?",
    "specialization": "Neither the text nor the ids",
    "uncertainty": "Entropy and margin need router logits", "super_experts": "were not recorded",
    "pruning": "Not in this trace", "steering": "is not a folder on this machine",
}  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
def test_imported_choices_and_nothing_else(open_page, unlabelled, page):
    test = open_page([unlabelled], page, sequence=0, token=3, expert=1)
    text = sound(test)
    assert IMPORTED.get(page, "") in text


@pytest.mark.parametrize("page", PAGES)
def test_imported_with_norms_but_no_weights(open_page, measured, page):
    sound(open_page([measured], page, sequence=0, token=0, expert=2))


QUICK = ("overview", "tokens", "experts", "specialization", "sql")


@pytest.mark.parametrize("page", [p if p in QUICK else pytest.param(p, marks=pytest.mark.slow) for p in PAGES])
def test_a_trace_of_parquet_files_says_the_same(open_page, small, shards, page):
    file, folder = open_page([small["one layer"]], page), open_page([shards], page)
    assert charts_of(file).keys() == charts_of(folder).keys()
    if page != "overview":  # which tells how large the file is
        assert sound(file) == sound(folder)


SAYS = {
    ("one token", "overview"): "1 sequence say too little",
    ("one sequence", "uncertainty"): "No interval:",
    ("one layer", "structure"): "there is nowhere to go",
    ("one layer", "experts"): "it is always alone",
    ("one token", "structure"): "none are chosen together",
    ("an empty layer", "overview"): "no routing",
    ("an empty layer", "experts"): "Layer 0 holds no routing",
    ("an empty layer", "consistency"): "in each of 3 layers",
}


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("name", SMALL)
def test_small_traces(open_page, small, name, page):
    test = open_page([small[name]], page, sequence=0, token=0, layer=0, expert=1)
    assert SAYS.get((name, page), "") in sound(test)


NEED_LOGITS = {
    "overview": {"chart_entropy"},
    "tokens": {"chart_token-entropy", "chart_token-logits"},
    "uncertainty": {"chart_uncertainty", "chart_top-p", "chart_needed"},
}


@pytest.mark.parametrize("page", ABOUT_A_TRACE)
def test_of_two_runs_only_the_one_with_logits_shows_what_needs_them(open_page, unequal, page):
    newest, first = (open_page([unequal], page, **run, token=3) for run in ({}, {"run": 1}))
    without, full = (set(charts_of(test)) for test in (newest, first))
    assert sound(newest) != sound(first)
    assert full - without == NEED_LOGITS.get(page, set())
    assert not without - full


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def another(path):
    """A database of somebody else takes its place."""
    other = path.with_name("other")
    with duckdb.connect(str(other)) as con:
        con.execute("CREATE TABLE runs (a INT)")
    other.replace(path)


SPOILT = {
    "text": lambda path: path.write_text("hello"),
    "nothing": lambda path: path.write_bytes(b""),
    "half": cut,
    "another": another,
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_the_file_goes_or_is_spoilt_while_the_dashboard_is_open(open_page, tmp_path, kind):
    path = write_trace(tmp_path / "mine.duckdb", Shape(sequences=2, length=8, layers=1, experts=4))
    test = open_page([path])
    sound(test)
    SPOILT[kind](path)
    says = "The trace is not there" if kind == "gone" else "The trace cannot be read"
    for page in PAGES if kind in ("gone", "text") else ("overview", "record"):
        text = sound(show(test, page))
        assert (says in text) == (page in ABOUT_A_TRACE), page


@pytest.mark.parametrize("page", ABOUT_A_TRACE)
def test_the_file_goes_between_two_questions(open_page, monkeypatch, tmp_path, page):
    path = write_trace(tmp_path / "mine.duckdb", Shape(sequences=2, length=8, layers=1, experts=4))
    there = data.identify(str(path))
    monkeypatch.setattr(data, "identify", lambda _: there)  # what was true a moment ago
    assert len(data.runs(there)) == len(data.layers(there, 1)) == 1
    path.unlink()
    text = sound(open_page([path], page))
    assert page in NOT_YET or "The trace cannot be read" in text


@pytest.mark.parametrize("error", [TraceError, ProbeError])
def test_what_a_page_or_a_part_of_it_cannot_do_is_a_line(open_page, monkeypatch, small, error):
    def render(here):
        ui.heading(here.trace.name, "Overview", "One page.")
        raise error("no <b>weights</b> here")

    for wrapped in (render, ui.part(render)):
        monkeypatch.setattr("app.pages.overview.render", wrapped)
        text = sound(open_page([small["one token"]]))
        assert "no &lt;b&gt;weights&lt;/b&gt; here" in text
