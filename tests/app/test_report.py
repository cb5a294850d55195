"""The standalone report: every page's figures and rows in one file, and nothing in it that runs or loads."""

import json
import re
from html.parser import HTMLParser
from itertools import repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import report, report_page
from app.theme import COLORS
from probes.cli.main import main
from probes.errors import ProbeError, UsageError
from store.trace import open_trace
from tests.app.traces import HOSTILE, Shape, write_trace


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A report over a trace whose tokens, labels and names are hostile."""
    folder = tmp_path_factory.mktemp("report")
    path = write_trace(folder / "<b>hostile.duckdb", Shape(sequences=12, missing=True), tokens=list(HOSTILE))
    return report.write_report(path, folder / "report.html").read_text("utf-8")


def sections(text):
    return dict(re.findall(r'<section id="(\w+)">(.*?)</section>', text, re.DOTALL))


def test_every_page_with_a_figure_is_in_it(written):
    found = sections(written)
    assert {"overview", "consistency", "structure", "pruning"} <= set(found)
    assert not {"tokens", "sql", "record"} & set(found)  # nothing of theirs can be printed
    for html in found.values():
        assert html.count('class="figure"') >= 1
        assert "<summary>" in html
        assert "rw-definition" in html
    assert "Who carries the load?" in found["overview"]
    assert "What stands out" in found["overview"]
    assert "being worked out" not in written  # nobody comes back to a report


def test_plotly_is_in_it_once_and_figures_are_plain_data(written):
    assert written.count("plotly.js v") == 1
    figures = re.findall(r'type="application/json" data-into="([^"]+)">(.*?)</script>', written, re.DOTALL)
    assert len({place for place, _ in figures}) == len(figures) >= 12
    for place, text in figures:
        assert "<" not in text
        assert {"data", "layout", "dark"} == set(json.loads(text)) - {"frames", "config"}
        assert f'id="{place}"' in written


def test_a_figure_is_there_once_and_becomes_that_of_the_dark_page(tmp_path):
    """What is kept of the dark figures is small, and makes exactly them."""
    path = write_trace(tmp_path / "t.duckdb", Shape(sequences=8))
    for name in ("overview", "structure", "pruning"):
        light, dark = (report_page._run(path, 1, name, theme) for theme in ("light", "dark"))
        texts = re.findall(r">(\{.*?)</script>", "".join(report_page._figures(name, light, dark)), re.DOTALL)
        own = [json.loads(proto.spec) for proto in report_page._charts(dark)]
        assert len(texts) == len(own) > 0
        for text, whole in zip(texts, own, strict=True):
            kept = json.loads(text)
            both = kept.pop("dark")
            for change in both:
                apply(kept, change)
            whole["layout"].pop("template")
            assert kept == whole
        assert sum(len(json.dumps(json.loads(text)["dark"])) for text in texts) < 0.5 * sum(map(len, texts))


def apply(figure, change):
    """As report.js does it."""
    path, *values = change
    for name in path[:-1]:
        figure = figure[name]
    if values:
        figure[path[-1]] = values[0]
    else:
        del figure[path[-1]]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=2), json_values), st.dictionaries(st.text(max_size=2), json_values))
def test_changes_make_the_second_of_the_first(first, second):
    made = json.loads(json.dumps(first))
    for change in json.loads(json.dumps(list(report_page.changes(first, second)))):
        apply(made, change)
    assert json.dumps(made, sort_keys=True) == json.dumps(second, sort_keys=True)
    assert list(report_page.changes(first, first)) == []


@pytest.mark.parametrize("page", ["overview", "experts", "specialization", "uncertainty", "super_experts", "structure"])
def test_only_figures_differ_between_the_themes(traces, page):
    """Everything else takes its colours from the style sheet, so the report needs it once."""
    light, dark = (
        "\n".join(report_page._written(report_page._run(traces["plain"], 1, page, theme), repeat("")))
        for theme in ("light", "dark")
    )
    assert light == dark


def test_both_palettes_are_in_it_and_paper_is_light(written):
    style = written.split("</style>")[0]
    before, dark = style.split("@media screen and (prefers-color-scheme: dark)")
    assert COLORS["light"]["ink"] in before
    assert COLORS["dark"]["ink"] in dark
    assert COLORS["dark"]["ink"] not in before
    templates = json.loads(re.search(r'class="templates" type="application/json">(.*?)</script>', written).group(1))
    for theme, colors in COLORS.items():
        assert templates[theme]["layout"]["paper_bgcolor"] == colors["background"]


class Elements(HTMLParser):
    """Every element of a document with its attributes."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


def test_nothing_runs_and_nothing_is_loaded(written):
    found = Elements(written).found
    tags = {tag for tag, _ in found}
    assert not tags & {"img", "iframe", "link", "object", "embed", "form", "base", "svg"}
    assert [attributes.get("type") for tag, attributes in found if tag == "script"].count(None) == 2  # Plotly, ours
    for tag, attributes in found:
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "srcset")], (
            tag,
            attributes,
        )
        assert attributes.get("href", "#").startswith(("#", "data:text/csv;base64,")), attributes
    assert "default-src 'none'" in written
    assert "url(" not in written.split("</style>")[0]
    assert "&lt;b&gt;hostile.duckdb" in written


def test_rows_are_cut_in_the_table_and_whole_in_the_csv(written):
    assert re.search(r"the first 200 of \d[\d,]+ rows", written)
    assert written.count("data:text/csv;base64,") >= 10


def test_a_run_that_is_not_there_and_a_place_that_is_none(traces, tmp_path):
    with pytest.raises(ProbeError, match="no run 9"):
        report.write_report(traces["plain"], tmp_path / "r.html", run=9)
    with pytest.raises(UsageError, match="no folder"):
        report.write_report(traces["plain"], tmp_path / "none" / "r.html")
    assert not list(tmp_path.iterdir())


def test_the_command_writes_a_report(traces, tmp_path, capsys):
    assert main(["export", str(traces["bare"]), "--to", str(tmp_path / "r.html"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["kind"] == "html"
    assert (tmp_path / "r.html").stat().st_size == said["bytes"] > 1_000_000
    assert main(["export", str(traces["plain"]), "--to", str(tmp_path / "no" / "r.html")]) == 2
    assert main(["export", str(tmp_path / "gone.duckdb"), "--to", str(tmp_path / "r2.html")]) == 1
    said = capsys.readouterr().err
    assert "no folder" in said
    assert "Traceback" not in said


def test_the_command_writes_shards(traces, tmp_path, capsys):
    assert main(["export", str(traces["plain"]), "--to", str(tmp_path / "shards")]) == 0
    assert open_trace(tmp_path / "shards").run()["n_tokens"] == 1440
    assert main(["export", str(traces["plain"]), "--to", str(tmp_path / "shards")]) == 1
    assert main(["export", str(traces["plain"]), "--to", str(tmp_path / "x"), "--run", "1"]) == 2
    assert "holds every run" in capsys.readouterr().err
