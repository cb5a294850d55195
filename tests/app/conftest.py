"""Pages run as Streamlit runs them, without a browser, over real traces."""

import sys
from pathlib import Path

import pytest

import app
from tests.app.traces import HOSTILE, Shape, write_trace

SCRIPT = Path(app.__file__).parent / "entry" / "dashboard.py"


@pytest.fixture(scope="session")
def traces(tmp_path_factory):
    """name -> path: one with everything, one with hostile tokens and missing rows, one without logits, a long one."""
    folder = tmp_path_factory.mktemp("traces")
    return {
        "plain": write_trace(folder / "plain.duckdb", Shape(first_layer=1)),
        "hostile": write_trace(folder / "hostile.duckdb", Shape(missing=True), tokens=list(HOSTILE)),
        "bare": write_trace(folder / "bare.duckdb", Shape(sequences=3, logits=False, entropy=False, norms=False)),
        "long": write_trace(folder / "long.duckdb", Shape(sequences=2, length=1500, layers=2)),
    }


@pytest.fixture
def open_page(monkeypatch):
    """`open_page([paths], page, **choices)` runs a page with these choices in the URL."""
    from streamlit.testing.v1 import AppTest

    def run(paths, page="overview", **choices):
        monkeypatch.setattr(sys, "argv", ["dashboard.py", *map(str, paths)])
        test = AppTest.from_file(str(SCRIPT), default_timeout=30)
        for name, value in choices.items():
            test.query_params[name] = str(value)
        return show(test, page)

    return run


def show(test, page):
    """Go to a page of `st.navigation`, as its address does; AppTest.switch_page only knows pages that are files."""
    from streamlit.util import calc_hash

    test._page_hash = calc_hash("" if page == "overview" else page)
    return test.run()


def shown(test):
    """All HTML of a page as one text, without the style sheet."""
    bodies = [str(element.proto.body) for element in test.get("html")]
    return "\n".join(body for body in bodies if not body.startswith("<style>"))
