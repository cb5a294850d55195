"""Every option of every command with values that are none: one line, exit code 2, and nothing heavy imported for it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from probes.errors import ProbeError, UsageError
from probes.interventions import interventions, parse
from probes.interventions.decoding import parse_strategy, strategies
from probes.parsing import layers, number, ranges, share_of_work, whole
from probes.recipes import recipes
from probes.sample import sample_path

NO_NUMBERS = ["foo", "²", "nan", "1e999", "", "3-1", "1_000", "٣", "1.5.2"]
VALUES = [*NO_NUMBERS, "0", "-1", "-inf", "99999999999999999999999"]

# Runs every command in one process in which the heavy libraries cannot be imported at all.
DRIVER = r"""
import argparse, contextlib, io, json, sys, traceback

HEAVY = {"torch", "transformers", "streamlit", "umap", "sklearn"}

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HEAVY:
            raise RuntimeError(f"{name} was imported")

sys.meta_path.insert(0, Blocker())
from probes.cli import analyze, options
from probes.cli.main import build_parser, command_names, main
from probes.metrics import discover

bases, values, wanted = json.load(sys.stdin)

def commands():
    for name in command_names():
        if name != "analyze":
            sub = build_parser(name)._subparsers._group_actions[0].choices[name]
            yield [name, *bases[name]], sub
    for name, metric in discover().items():
        yield ["analyze", name, "no/such/trace.duckdb"], analyze._parser(metric)
    yield ["analyze", "overview", "no/such/trace.duckdb"], analyze._overview_parser()

def numeric(words, action):
    if isinstance(action.type, (options._Whole, options._Number)):
        return True
    if words[0] == "analyze" and words[1] != "overview":
        found = {o.name: o for o in discover()[words[1]].options}.get(action.dest)
        return found is not None and found.type in (int, float)
    return action.dest in ("layers", "batch_size", "shard")

def bounds(words, action):
    if isinstance(action.type, options._Whole):
        return action.type.low, action.type.high
    return None

found = []
for words, parser in commands():
    for action in parser._actions:
        if not action.option_strings or action.nargs == 0 or action.dest == "help":
            continue
        assert action.type not in (int, float), (words, action.option_strings)
        if words[0] in ("app", "demo") and not numeric(words, action):
            continue  # these start a server, or record
        for value in values:
            text = [*words, f"{action.option_strings[-1]}={value}"]
            out, err = io.StringIO(), io.StringIO()
            try:
                with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                    code = main(text)
            except BaseException:
                code = traceback.format_exc()
            found.append([text, code, err.getvalue(), numeric(words, action), bounds(words, action)])
for text in wanted:
    err = io.StringIO()
    with contextlib.redirect_stderr(err):
        code = main(text)
    found.append([text, code, err.getvalue(), False, None])
print(json.dumps(found))
"""

# Options that are no numbers, and can be judged without a model or a trace.
JUDGED = [
    (["--device=foo"], "unknown --device 'foo'"),
    (["--device=cuda:x"], "after the colon"),
    (["--dtype=float31"], "did you mean 'float32'"),
]
MODEL = "no/such/model"


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    path = tmp_path_factory.mktemp("options") / "p.jsonl"
    path.write_text('{"text": "a b", "target": "c"}\n')
    return str(path)


def words_of(prompts):
    out = str(Path(prompts).with_name("t.duckdb"))
    return {
        "record": [MODEL, "--prompts", prompts, "--out", out],
        "steer": [MODEL, "--prompt", "x", "--intervention", "random"],
        "eval": [MODEL, "--tasks", prompts, "--intervention", "random"],
        "check": [MODEL],
        "app": ["no/such/trace.duckdb"],
        "demo": ["--out", "no/such/folder/x.duckdb"],
        "compare": ["no/such/trace.duckdb"],
        "export": ["no/such/trace.duckdb", "--to", "no/such/folder/x.html"],
        "import": ["npz", "no/such/file.npz", "--out", out],
        "info": ["no/such/trace.duckdb"],
        "sql": ["no/such/trace.duckdb", "SELECT 1"],
        "doctor": [],
        "families": ["olmoe"],
        "interventions": [],
    }


@pytest.fixture(scope="module")
def tried(prompts):
    """[words, exit code or traceback, stderr, is it a number, its bounds] of every command, option and value."""
    bases = words_of(prompts)
    wanted = [[name, *bases[name], *more] for name in ("record", "steer", "eval", "check") for more, _ in JUDGED]
    wanted += [[name, *bases[name], "--lyers=3"] for name in ("record", "compare")]
    wanted += [["analyze", "load", "t", "--lyers=3"], ["record", *bases["record"], "--intervention=ban"]]
    wanted += [["eval", *bases["eval"], *more] for more in (["--join=foo"], ["--control=foo"], ["--intervention=ban"])]
    wanted += [["analyze", "load", "t", *more] for more in (["--by=foo"], ["--plot=foo.txt"], ["--format=foo"])]
    asked = json.dumps([bases, VALUES, wanted])
    done = subprocess.run([sys.executable, "-c", DRIVER], input=asked, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_every_command_was_tried(tried):
    from probes.cli.main import command_names

    without = {"doctor", "info"}  # they take no values
    assert {words[0] for words, *_ in tried} == set(command_names()) - without
    assert len(tried) > 3000


def test_no_value_gives_a_traceback_or_loads_a_library(tried):
    for words, code, said, *_ in tried:
        assert code in (0, 1, 2), f"{words}: {code}"
        assert said.count("\n") == (code != 0), f"{words}: {said!r}"
        assert code == 0 or said.startswith("probe: "), words


def test_what_is_no_number_is_said_with_exit_code_2(tried):
    for words, code, said, numeric, _ in tried:
        flag, _, value = words[-1].partition("=")
        if numeric and value in NO_NUMBERS and not (flag == "--layers" and value == "٣"):
            assert code == 2, f"{words}: {code} {said!r}"
            assert flag in said, f"{words}: {said!r}"


def test_what_is_out_of_bounds_is_said_with_exit_code_2(tried):
    seen = 0
    for words, code, said, _, bounds in tried:
        value = words[-1].partition("=")[2]
        if bounds is None or value not in ("0", "-1", "99999999999999999999999"):
            continue
        outside = not bounds[0] <= int(value) <= bounds[1]
        seen += outside
        judged = "must be at" in said or "takes a whole number" in said
        assert judged == outside, f"{words}: {code} {said!r}"
        assert code == 2 or not outside
    assert seen > 200


def test_what_needs_no_model_is_judged_without_one(tried):
    said = {" ".join(words[:1] + words[-1:]): (code, text) for words, code, text, *_ in tried}
    for name in ("record", "steer", "eval", "check"):
        for (option,), text in JUDGED:
            code, told = said[f"{name} {option}"]
            assert (code, text in told) == (2, True), told
    assert "did you mean '--layers'?" in said["record --lyers=3"][1]
    assert "did you mean '--layers'?" in said["compare --lyers=3"][1]
    assert "did you mean '--layers'?" in said["analyze --lyers=3"][1]
    for key, text in {
        "record --shard=foo": "must look like 2/8",
        "record --intervention=ban": "no experts are named",
        "eval --intervention=ban": "no experts are named",
        "eval --join=foo": "unknown join 'foo'",
        "eval --control=foo": "unknown control 'foo'",
        "analyze --by=foo": "unknown grouping",
        "analyze --plot=foo.txt": "--plot writes",
        "analyze --format=foo": "invalid choice",
    }.items():
        assert said[key][0] == 2, (key, said[key])
        assert text in said[key][1]


BACKWARDS = "is empty: it runs backwards; write 1-3"


def test_a_range_is_read_the_same_way_everywhere(capsys):
    from probes.cli.main import main

    for read in (lambda: layers("3-1"), lambda: ranges("3-1", "x"), lambda: parse("ban:layer=3-1,expert=1")):
        with pytest.raises(UsageError, match=BACKWARDS):
            read()
    for spec in ("ban:layer=1,expert=3-1", "ban:expert=1.3-1", "random:position=3-1", "random:sequence=3-1"):
        with pytest.raises(UsageError, match=BACKWARDS):
            parse(spec)
    with pytest.raises(UsageError, match=BACKWARDS):
        parse({"name": "random", "positions": [3, 1]})
    for words in (["analyze", "load", "t"], ["compare", "t"], ["record", MODEL, "--prompts", "p", "--out", "o"]):
        assert main([*words, "--layers", "3-1"]) == 2
        assert BACKWARDS in capsys.readouterr().err
    assert layers("0-3,7") == layers("0-3+7") == layers([7, 3, "0-2"]) == (0, 1, 2, 3, 7)
    assert parse("ban:layer=0-1+3,expert=2").scope.layers == (0, 1, 3)


@pytest.mark.parametrize("value", [*VALUES, None, True, [], {}, float("nan"), 10**400, object()])
def test_parsers_give_a_usage_error_or_a_number(value):
    for read in (
        lambda v: whole(v, "x", 1),
        lambda v: number(v, "x", above=0),
        lambda v: ranges(v, "x"),
        lambda v: layers(v),
        lambda v: share_of_work(v, "x"),
    ):
        assert "\n" not in said_by(read, value)


def said_by(read, value):
    """The one error that is allowed, as text; "" where there is none."""
    try:
        read(value)
    except ProbeError as error:
        return str(error)
    return ""


SCOPE = ("layer", "expert", "phase", "position", "last", "token", "sequence", "probability", "seed")


@pytest.mark.parametrize("value", VALUES)
def test_specs_recipes_and_strategies_are_judged_in_words(value):
    texts = [f"{name}:{option.name}={value}" for name, one in interventions().items() for option in one.options]
    texts += [f"{name}:{field}={value}" for name in interventions() for field in SCOPE]
    for text in texts:
        for given in (text, dict([("name", text.partition(":")[0]), tuple(text.partition(":")[2].split("=", 1))])):
            assert "\n" not in said_by(parse, given), text
    for name, strategy in strategies().items():
        for option in strategy.options:
            assert "\n" not in said_by(parse_strategy, f"{name}:{option.name}={value}")
    for recipe in recipes().values():
        for option in recipe.options:
            if option.type in (int, float) and value in NO_NUMBERS:
                with pytest.raises(UsageError):
                    recipe.specs(None, {option.name: value})


BAD_SETTINGS = [
    ("record", {"limit": "foo"}),
    ("record", {"limit": 0}),
    ("record", {"batch_size": 1.5}),
    ("record", {"max_new_tokens": None}),
    ("record", {"logit_rate": float("nan")}),
    ("record", {"seed": -1}),
    ("record", {"shard": "foo"}),
    ("record", {"layers": "3-1"}),
    ("record", {"device": "foo"}),
    ("record", {"lyers": "3"}),
    ("record", {"interventions": "ban"}),
    ("record", {"baseline": 0}),
    ("analyze", {"ci": True, "resamples": 0}),
    ("analyze", {"ci": True, "resamples": -3}),
    ("analyze", {"seed": -5}),
    ("analyze", {"seed": "²"}),
    ("analyze", {"layers": "3-1"}),
    ("analyze", {"run_id": 0}),
    ("analyze", {"run_id": "foo"}),
    ("analyze", {"by": "foo"}),
    ("evaluate", {"control_seeds": -1}),
    ("evaluate", {"control_seeds": None}),
    ("evaluate", {"limit": "²"}),
    ("evaluate", {"max_new_tokens": 0}),
    ("evaluate", {"control_tolerance": float("inf")}),
    ("evaluate", {"seed": -1}),
    ("evaluate", {"join": "foo"}),
    ("evaluate", {"interventions": ["ban"]}),
    ("evaluate", {"load": {"device": "foo"}}),
    ("evaluate", {"load": {"foo": 1}}),
    ("evaluate", {"interventions": 5}),
    ("evaluate", {"interventions": [5]}),
    ("evaluate", {"stop": 5}),
    ("record", {"capture": 5}),
    ("record", {"capture": [5]}),
    ("record", {"interventions": b"ban"}),
    ("analyze", {"layers": [1.5]}),
]


@pytest.mark.parametrize(("name", "settings"), BAD_SETTINGS)
def test_python_says_the_same_before_it_opens_anything(name, settings, tmp_path, prompts):
    import probes

    asked = {
        "record": lambda: probes.record(MODEL, prompts, tmp_path / "t.duckdb", **settings),
        "analyze": lambda: probes.analyze(tmp_path / "none.duckdb", "load", **settings),
        "evaluate": lambda: probes.evaluate(MODEL, prompts, **settings),
    }
    with pytest.raises(UsageError) as told:
        asked[name]()
    assert "\n" not in str(told.value)
    assert not (tmp_path / "t.duckdb").exists()


def test_what_is_no_path_metric_or_model_is_said(tmp_path, prompts):
    import probes

    for call in (
        lambda: probes.analyze(5, "load"),
        lambda: probes.analyze("t", 5),
        lambda: probes.record(5, prompts, tmp_path / "t.duckdb"),
        lambda: probes.record(MODEL, 5, tmp_path / "t.duckdb"),
        lambda: probes.record(MODEL, prompts, 5),
        lambda: probes.evaluate(5, prompts),
        lambda: probes.evaluate(MODEL, 5),
        lambda: probes.evaluate(MODEL, []),
        lambda: probes.import_npz(5, tmp_path / "t.duckdb"),
    ):
        with pytest.raises(UsageError):
            call()


def test_an_empty_interval_is_refused_over_a_real_trace(tmp_path, capsys):
    """The first report: `--ci --resamples 0` ended in a traceback."""
    from probes.cli.main import main

    assert main(["analyze", "load", str(sample_path()), "--ci", "--resamples", "0"]) == 2
    assert capsys.readouterr().err == "probe: --resamples must be at least 1, got 0\n"
    assert main(["analyze", "load", str(sample_path()), "--ci", "--seed", "-1"]) == 2
    assert capsys.readouterr().err == "probe: --seed must be at least 0, got -1\n"
