"""docs/sql.md says what the schema says, and every query in it runs on a real trace."""

import re
from pathlib import Path

import pytest

from store.batch import RunInfo
from store.reference import EXAMPLES, ORDER, sql_page, views
from store.results import save_result
from store.sandbox import run_query
from store.trace import open_trace
from tests.store.made import RUN, Plan, write

PAGE = Path(__file__).parents[2] / "docs" / "sql.md"


def test_the_page_is_the_one_the_schema_makes():
    assert PAGE.read_text(encoding="utf-8") == sql_page(), "run: python -m store.reference > docs/sql.md"


def test_every_view_and_column_is_on_the_page():
    found = views()
    assert set(found) == set(ORDER)
    text = PAGE.read_text(encoding="utf-8")
    for name, (comment, columns) in found.items():
        assert f"### {name}\n{comment}\n" in text
        assert all(f"| `{column}` |" in text for column, _, _ in columns)


def test_a_dozen_queries_are_on_the_page():
    queries = re.findall(r"```sql\n(.*?)\n```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert queries == [query for _, query in EXAMPLES]
    assert len(queries) >= 12


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    """A baseline and the same tokens routed otherwise."""
    path = tmp_path_factory.mktemp("reference") / "trace.duckdb"
    write(path, Plan(logits="bfloat16"))
    write(path, Plan(logits="bfloat16"), run=RunInfo("steered", RUN.model, baseline_run_id=1))
    columns = [{"name": name, "unit": "", "description": name} for name in ("layer", "expert", "target", "npmi")]
    row = {"layer": 0, "expert": 1, "target": "a", "npmi": 0.5}
    save_result(open_trace(path), 1, "npmi", {}, columns, [row], {})
    return path


@pytest.mark.parametrize("title", [title for title, _ in EXAMPLES])
def test_the_query_runs_where_people_run_it(two_runs, title):
    result = run_query(two_runs, dict(EXAMPLES)[title])
    assert result.rows.num_rows > 0 or title.startswith("Experts that no token chose")
    said = [c for c in result.columns if c != "missing_reason"]
    assert not any(result.rows[name].null_count == result.rows.num_rows > 0 for name in said)
