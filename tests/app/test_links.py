"""Links between pages: the choices of this page go along, and nothing foreign becomes markup."""

import pytest

from app import ui


@pytest.fixture
def address(monkeypatch):
    values = {}
    monkeypatch.setattr(ui.state, "read", values.get)
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
