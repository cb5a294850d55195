"""Every state of a trace has a designed page: no rows yet, being recorded, a single sequence, nonsense in the URL."""

import pytest

from tests.app.conftest import shown
from tests.app.traces import Shape, open_writer, recording_trace, write_trace

PAGES = ("specialization", "experts", "uncertainty", "super_experts")


@pytest.mark.parametrize("page", PAGES)
def test_a_run_without_rows(open_page, tmp_path, page):
    path = tmp_path / "norows.duckdb"
    with open_writer(path, Shape()):
        test = open_page([path], page)
        assert not test.exception
        assert "No routing has been recorded yet" in shown(test)


@pytest.mark.parametrize("page", PAGES)
def test_a_run_that_goes_on(open_page, tmp_path, page):
    path = tmp_path / "growing.duckdb"
    with recording_trace(path, Shape(sequences=128)):
        test = open_page([path], page)
        assert not test.exception
        assert "No routing has been recorded yet" not in shown(test)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(
    "choices", [{"layer": "<b>"}, {"expert": "-1"}, {"sequence": "x' OR 1=1"}, {"run": "99"}, {"token": "1e9"}]
)
def test_nonsense_counts_as_not_chosen(open_page, traces, page, choices):
    assert not open_page([traces["plain"]], page, **choices).exception


@pytest.mark.parametrize("page", PAGES)
def test_a_single_sequence_has_no_intervals(open_page, tmp_path, page):
    test = open_page([write_trace(tmp_path / "one.duckdb", Shape(sequences=1))], page)
    assert not test.exception
