"""Values in the URL that are no numbers, or out of range, are as if nothing had been chosen: no page fails."""

import re
from pathlib import Path

import pytest

import app
from tests.app.pages.states import PAGES, sound
from tests.app.traces import Shape, write_trace

VALUES = ["²", "nan", "1e999", "3-1", "-1", "99999999999", "2.5"]


def names():
    """Every choice that a page keeps in the URL, from the source of the pages."""
    found = {"spec", "sql", "trace", "job"}
    for file in Path(app.__file__).parent.rglob("*.py"):
        text = file.read_text("utf-8")
        found |= set(re.findall(r"state\.(?:read|read_int|one_of)\(\s*\"(\w+)\"", text))
        found |= set(re.findall(r"state\.(?:pick|amount|search)\(\s*\"[^\"]*\",\s*\"(\w+)\"", text))
    return sorted(found)


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    return write_trace(
        tmp_path_factory.mktemp("numbers") / "t.duckdb", Shape(sequences=6, length=24, layers=2, experts=8)
    )


def test_the_choices_are_known():
    assert set(names()) >= {"layer", "expert", "sequence", "token", "run", "keep", "ahead", "clusters"}


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("value", VALUES)
def test_no_value_breaks_a_page(open_page, trace, page, value):
    sound(open_page([trace], page, **dict.fromkeys([n for n in names() if n != "trace"], value)))
