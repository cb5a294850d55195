"""Links between pages: the choices of this page go along, and nothing foreign becomes markup."""

import pytest

from app import state, ui
from app.components import cells


@pytest.fixture
def address(monkeypatch):
    values = {}
    monkeypatch.setattr(state, "read_all", lambda *names: {name: values.get(name) for name in names})
    return values


def test_a_link_keeps_trace_and_run(address):
    address |= {"trace": "a b.duckdb", "run": "2", "layer": "5"}
    assert ui.href("tokens", sequence=3, token=None) == "./tokens?trace=a+b.duckdb&run=2&sequence=3"
    assert ui.href("overview") == "./?trace=a+b.duckdb&run=2"
    assert ui.href("tokens", run=1) == "./tokens?trace=a+b.duckdb&run=1"


def test_a_link_is_escaped(address):
    html = ui.link("tokens", "<img src=x>", label='"><script>')
    assert html.startswith('<a class="rw-link" href="./tokens?label=%22%3E%3Cscript%3E" target="_self">')
    assert "<img" not in html


def test_tables_escape_what_was_not_made_here(address):
    html = cells.table(
        ["name", "#n"], [["<b>x</b>", 3], [cells.token("<i>\n"), cells.expert(2, 5, 8)]], caption="a < b"
    )
    assert "&lt;b&gt;x&lt;/b&gt;" in html
    assert "<i>\n" not in html
    assert "&lt;i&gt;" in html
    assert "⏎" in html
    assert '<th class="rw-number">n</th>' in html
    assert "layer=2&amp;expert=5" in html
    assert "a &lt; b" in html


def test_a_context_marks_one_token():
    html = cells.context(["a", " <b>", " c"], 1)
    assert html.count("<mark>") == 1
    assert "&lt;b&gt;" in html
    assert "<b>" not in html
