"""What is kept between two looks at a page: figures and tables by what they are made of, traces by their files."""

import pandas as pd
import pytest

from app import data
from app.trace_file import identify, shown_first
from tests.app.conftest import shown


def test_something_is_made_once_for_equal_frames_and_anew_for_others():
    made = []

    def sums(frame, factor=1):
        made.append(factor)
        return frame["a"].sum() * factor

    frame = pd.DataFrame({"a": [1, 2]})
    assert data.once(sums, frame) == 3
    assert data.once(sums, frame.copy()) == 3
    assert made == [1]
    assert data.once(sums, frame, factor=2) == 6
    assert data.once(sums, frame.assign(a=[1, 3])) == 4
    assert data.once(sums, frame.rename(columns={"a": "b"}).assign(a=[1, 2])) == 3
    assert len(made) == 4


def test_functions_of_one_name_are_told_apart():
    def maker(value):
        def make():
            return value

        make.__module__ = f"module_{value}"
        return make

    assert [data.once(maker(value)) for value in (1, 2)] == [1, 2]


def test_a_part_of_a_page_says_what_cannot_be_read():
    from streamlit.testing.v1 import AppTest

    def page():
        from app import ui
        from store.errors import TraceError

        def broken(what):
            raise TraceError(f"{what} is gone")

        ui.part(broken)("the trace")

    test = AppTest.from_function(page).run()
    assert not test.exception
    assert "the trace is gone" in shown(test)


def test_a_trace_that_changed_is_another(tmp_path):
    file = tmp_path / "a.duckdb"
    file.write_bytes(b"1")
    first = identify(str(file))
    file.write_bytes(b"12")
    assert identify(str(file)) != first
    with pytest.raises(FileNotFoundError):
        identify(str(tmp_path / "none.duckdb"))


@pytest.mark.parametrize(("runs", "best"), [
    ([(1, "complete"), (2, "complete")], 2),
    ([(1, "complete"), (2, "recording")], 1),
    ([(1, "failed"), (2, "recording")], 2),
])  # fmt: skip
def test_the_newest_complete_run_is_shown_first(runs, best):
    assert shown_first([{"run_id": n, "status": status} for n, status in runs])["run_id"] == best


def test_any_key_names_a_command():
    from streamlit.testing.v1 import AppTest

    def page():
        from app.components.copyable import copyable

        copyable("probe info <b>.duckdb", "command__of_a__random_name")

    test = AppTest.from_function(page).run()
    assert not test.exception
    (part,) = test.get("bidi_component")
    assert "probe info <b>.duckdb" in part.proto.json
