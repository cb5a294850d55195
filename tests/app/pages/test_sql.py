"""The SQL page: the sandbox answers, a link never runs, and what comes back is shown as text."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from app import charts
from app.charts.sql import MOST_GROUPS
from app.tables.query_table import distinct, frame_of, numeric
from store import database, reference
from store.sandbox import Result
from tests.app.conftest import shown
from tests.app.traces import Shape, open_writer, recording_trace


def asked(test, sql):
    """The page after `sql` was written into the editor and Run pressed."""
    test.text_area(key="sql_editor").set_value(sql)
    return test.button(key="sql_run").click().run()


def test_the_first_view_offers_an_example_and_the_views(open_page, traces):
    test = open_page([traces["plain"]], "sql")
    assert not test.exception
    assert test.text_area(key="sql_editor").value == reference.EXAMPLES[0][1]
    text = shown(test)
    for view, (comment, columns) in reference.views().items():
        assert f"<code>{view}</code>" in text
        assert columns[0][0] in text
        assert comment.split(":")[0].split("'")[0][:20] in text
    assert not test.dataframe


def test_run_shows_rows_to_take_away(open_page, traces):
    test = asked(
        open_page([traces["plain"]], "sql"), "SELECT label, count(*) AS n FROM sequences GROUP BY 1 ORDER BY 1"
    )
    assert not test.exception
    assert test.dataframe[0].value["label"].tolist() == ["arabic", "code", "prose", "sums"]
    assert "4 rows; 2 columns" in shown(test)
    assert [button.proto.label for button in test.get("download_button")] == ["CSV", "Parquet"]
    (chart,) = (c for c in test.get("plotly_chart") if c.proto.alt)
    assert "bars of n over label" in chart.proto.alt


def test_the_answer_survives_a_choice_about_the_chart(open_page, traces):
    test = asked(open_page([traces["plain"]], "sql"), "SELECT layer, expert, n_tokens FROM expert_stats LIMIT 30")
    test.segmented_control(key="pick_chart").set_value("heat-map").run()
    assert not test.exception
    assert "heat-map of n_tokens over layer" in next(c.proto.alt for c in test.get("plotly_chart"))
    assert len(test.dataframe[0].value) == 30


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("DELETE FROM raw.tokens", "only SELECT"),
        ("SELECT * FROM read_csv('/etc/passwd')", "not allowed"),
        ("COPY (SELECT 1) TO '/tmp/x.csv'", "only SELECT"),
        ("SELECT 1; SELECT 2", "exactly one statement"),
        ("SELECT * FROM token", "did you mean"),
    ],
)
def test_what_is_refused_says_why_and_goes_into_the_history(open_page, traces, sql, why):
    test = asked(open_page([traces["plain"]], "sql"), sql)
    assert not test.exception
    assert "Not answered" in shown(test)
    assert why in shown(test)
    assert not test.dataframe
    (past,) = test.selectbox(key="sql_past").options
    assert past.endswith("refused")


def test_a_query_in_the_address_is_shown_and_not_run(open_page, traces):
    test = open_page([traces["plain"]], "sql", sql="SELECT 42 AS answer")
    assert not test.exception
    assert test.text_area(key="sql_editor").value == "SELECT 42 AS answer"
    assert "nothing runs until you press Run" in shown(test)
    assert not test.dataframe
    assert not test.session_state["_sql"]["history"]
    test.run()  # looking again does not run it either
    assert not test.dataframe
    test.button(key="sql_run").click().run()
    assert test.dataframe[0].value["answer"].tolist() == [42]
    assert "nothing runs until" not in shown(test)


def test_examples_and_history_go_into_the_editor(open_page, traces):
    test = open_page([traces["plain"]], "sql")
    examples = test.selectbox(key="sql_example")
    assert list(examples.options) == [title for title, _ in reference.EXAMPLES]
    examples.set_value(reference.EXAMPLES[2][0]).run()
    assert test.text_area(key="sql_editor").value == reference.EXAMPLES[2][1]
    asked(test, "SELECT 1 AS one")
    test.selectbox(key="sql_past").set_value(test.selectbox(key="sql_past").options[0]).run()
    assert test.text_area(key="sql_editor").value == "SELECT 1 AS one"


def test_rows_are_cut_and_the_page_says_so(open_page, traces):
    test = open_page([traces["plain"]], "sql")
    asked(test, "SELECT * FROM range(5000)")
    assert len(test.dataframe[0].value) == 1000
    assert "more rows fit the query" in shown(test)


def test_hostile_names_and_values_stay_text(open_page, traces):
    sql = """SELECT token AS "<img src=x onerror=alert(1)>", position AS "n" FROM tokens WHERE sequence_id = 0"""
    test = asked(open_page([traces["hostile"]], "sql"), sql)
    assert not test.exception
    assert "<img" not in shown(test)
    (chart,) = (c for c in test.get("plotly_chart") if c.proto.alt)
    assert "<img" not in str(chart.proto.spec)
    assert "<script" not in str(chart.proto.spec)


def test_no_rows_is_said(open_page, traces):
    test = asked(open_page([traces["plain"]], "sql"), "SELECT * FROM runs WHERE false")
    assert "no row fits" in shown(test)


def test_beside_a_recording(open_page, tmp_path):
    with recording_trace(tmp_path / "growing.duckdb", Shape(sequences=128, length=20)):
        test = asked(open_page([tmp_path / "growing.duckdb"], "sql"), "SELECT count(*) AS n FROM tokens")
        assert not test.exception
        assert test.dataframe[0].value["n"].tolist() == [1280]


def test_on_a_run_without_rows_and_a_trace_without_runs(open_page, tmp_path):
    with open_writer(tmp_path / "norows.duckdb", Shape()):
        assert not asked(open_page([tmp_path / "norows.duckdb"], "sql"), "SELECT * FROM tokens").exception
    database.create_file(tmp_path / "empty.duckdb")
    assert "The trace is empty" in shown(open_page([tmp_path / "empty.duckdb"], "sql"))


def result(**columns):
    table = pa.table(columns)
    return Result(table.column_names, [str(field.type) for field in table.schema], table, False)


def test_a_frame_of_every_kind_of_value():
    frame = frame_of(
        result(
            whole=pa.array([1, None, 2**60], pa.int64()),
            part=pa.array([0.5, None, 1.0]),
            lists=pa.array([[1, 2], None, []]),
            huge=pa.array([2**100, 1, None], pa.decimal128(38, 0)),
            raw=pa.array([b"\x00", None, b"ab"]),
            yes=pa.array([True, False, None]),
        )
    )
    assert frame["whole"].tolist()[2] == 2**60
    assert frame["lists"].tolist() == ["[1, 2]", None, "[]"]
    assert numeric(frame) == ["whole", "part", "huge"]


def test_equal_names_are_told_apart():
    table = pa.table([pa.array([1]), pa.array([2])], names=["n", "n"])
    assert list(frame_of(Result(["n", "n"], ["INTEGER"] * 2, table, False))) == ["n", "n_2"]
    assert distinct(["a", "a", "a"]) == ["a", "a_2", "a_3"]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["bars", "line", "points", "heat-map"])
def test_every_kind_of_chart(theme, kind):
    rows = pd.DataFrame({"a": ["<b>x</b>", "%{y}", None] * 2, "b": range(6), "c": np.linspace(0, 1, 6)})
    figure = charts.quick_chart(rows, theme, kind=kind, x="a", y="b", color="c" if kind == "heat-map" else None)
    text = figure.to_json()
    assert "<b>x" not in text.replace("\\u003c", "<")
    assert "%{y}" not in str(list(figure.data[0].x))


def test_many_colours_become_one_grey_rest():
    rows = pd.DataFrame({"a": range(40), "b": range(40), "c": [f"g{n}" for n in range(40)]})
    traces = charts.quick_chart(rows, "light", kind="points", x="a", y="b", color="c").data
    assert len(traces) == MOST_GROUPS + 1
    assert traces[-1].name == f"{40 - MOST_GROUPS} others"
