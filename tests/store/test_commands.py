"""`probe sql` and `probe info`, as a shell runs them."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from probes.cli.main import main
from store.render import FORMATS, cell, render
from store.sandbox import run_query
from tests.store.made import RUN, Plan, make_batch

QUERY = (
    "SELECT layer, label, sum(n_tokens) AS n, list(expert ORDER BY expert)[:2] AS some "
    "FROM expert_stats GROUP BY ALL ORDER BY ALL"
)


def probe(capsysbinary, *words):
    code = main([str(w) for w in words])
    out, err = capsysbinary.readouterr()
    return code, out, err.decode()


def test_formats_agree(made_trace, capsysbinary):
    answers = {f: probe(capsysbinary, "sql", made_trace, QUERY, "--format", f) for f in FORMATS}
    assert all(code == 0 and err == "" for code, _, err in answers.values())
    rows = json.loads(answers["json"][1])["rows"]
    assert len(rows) == 9
    assert rows[0].keys() == {"layer", "label", "n", "some"}
    assert [json.loads(line) for line in answers["jsonl"][1].splitlines()] == rows
    read = list(csv.DictReader(io.StringIO(answers["csv"][1].decode())))
    assert [int(r["n"]) for r in read] == [r["n"] for r in rows]
    table = pq.read_table(io.BytesIO(answers["parquet"][1]))
    assert [int(n) for n in table["n"].to_pylist()] == [r["n"] for r in rows]
    assert len(answers["table"][1].splitlines()) == len(answers["markdown"][1].splitlines()) == 11


def test_json_is_the_same_as_format_json(made_trace, capsysbinary):
    one = probe(capsysbinary, "sql", made_trace, QUERY, "--json")
    assert one == probe(capsysbinary, "sql", made_trace, QUERY, "--format", "json")
    assert json.loads(one[1])["columns"][0] == {"name": "layer", "type": "SMALLINT"}


def test_nan_is_null_in_json(made_trace, capsysbinary):
    _, out, _ = probe(capsysbinary, "sql", made_trace, "SELECT 'nan'::FLOAT AS a, [1.5, 'inf'::FLOAT] AS b", "--json")
    assert json.loads(out)["rows"] == [{"a": None, "b": [1.5, None]}]


def test_it_says_so_when_it_cuts(made_trace, capsysbinary):
    code, out, err = probe(capsysbinary, "sql", made_trace, "SELECT * FROM range(2000)", "--format", "jsonl")
    assert (code, len(out.splitlines())) == (0, 1000)
    assert "only the first 1,000 rows are shown; --limit N for more" in err
    _, out, err = probe(
        capsysbinary, "sql", made_trace, "SELECT * FROM range(2000)", "--format", "jsonl", "--limit", "3000"
    )
    assert (len(out.splitlines()), err) == (2000, "")


def test_errors_are_one_line_and_code_1(made_trace, capsysbinary):
    code, out, err = probe(capsysbinary, "sql", made_trace, "DROP VIEW runs")
    assert (code, out) == (1, b"")
    assert err == "probe: only SELECT, WITH, EXPLAIN, DESCRIBE and SUMMARIZE are allowed, not DROP\n"
    assert probe(capsysbinary, "sql", made_trace, "SELECT 1", "--format", "tabel")[0] == 2
    assert probe(capsysbinary, "info", "no.duckdb") == (1, b"", "probe: no.duckdb: no such file\n")


def test_stdin_and_out(made_trace, capsysbinary, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("SELECT 1 AS x"))
    out = tmp_path / "x.parquet"
    assert probe(capsysbinary, "sql", made_trace, "-", "--format", "parquet", "--out", out) == (0, b"", "")
    assert pq.read_table(out).to_pylist() == [{"x": 1}]


def test_parquet_is_not_sent_to_a_terminal(made_trace, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["sql", str(made_trace), "SELECT 1", "--format", "parquet"]) == 2
    assert "Parquet is binary" in capsys.readouterr().err


def test_two_columns_of_one_name_both_show(made_trace):
    text = render(run_query(made_trace, "SELECT 1 AS a, 2 AS a"), "csv").decode()
    assert text.splitlines()[1] == "1,2"


def test_control_characters_do_not_reach_a_terminal(made_trace, capsysbinary):
    _, out, _ = probe(capsysbinary, "sql", made_trace, "SELECT chr(27) || '[31mred' || chr(10) || chr(8238) AS x")
    assert b"\x1b" not in out
    assert b"\\x1b[31mred\\n\\u202e" in out
    assert cell("a" * 100, 10) == "aaaaaaaaa…"


def test_info(made_trace, capsysbinary):
    code, out, err = probe(capsysbinary, "info", made_trace, "--json")
    about = json.loads(out)
    run = about["runs"][0]
    assert (code, err, len(about["runs"])) == (0, "", 1)
    assert (run["model"], run["status"], run["n_sequences"]) == (RUN.model, "complete", 24)
    assert run["n_tokens"] == sum(make_batch(Plan(), i).n_tokens for i in range(8))
    assert run["provenance"] == {"seed": 0}
    assert [layer["layer"] for layer in run["layers"]] == [1, 2, 4]
    assert all(layer["n_tokens"] + layer["n_missing"] == run["n_tokens"] for layer in run["layers"])
    assert run["labels"] == [{"label": "code", "n": 8}, {"label": "prose", "n": 8}, {"label": None, "n": 8}]
    text = probe(capsysbinary, "info", made_trace)[1].decode()
    for words in (
        "run 1",
        RUN.model,
        "complete",
        "24 sequences",
        "3 of 6 routed (1-2, 4)",
        "code 8",
        "routing 9",
        "seed",
    ):
        assert words in text


@pytest.mark.parametrize("command", ["sql", "info"])
def test_help_is_quick_and_has_an_example(command):
    code = f"import sys; from probes.cli.main import main; main(['{command}', '--help'])"
    command = [sys.executable, "-X", "importtime", "-c", code]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert "example:\n  probe" in done.stdout
    assert not {"duckdb", "pyarrow", "pandas", "numpy"} & {
        line.split("|")[-1].strip() for line in done.stderr.splitlines()
    }
