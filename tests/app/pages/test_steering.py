"""Steering: a live model, forms made from the registry, what it writes beside the baseline, and every wrong input."""

import json
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from app.sections.steering_take_away import FILE, command, typed_specs
from app.steering import live, spec_form
from app.steering.evaluation import command as eval_command
from app.steering.memory import Request
from probes.cli.main import main
from probes.evaluation import Arm
from probes.generation import Decoding
from probes.interventions import interventions, parse
from probes.interventions.decoding import parse_strategy, strategies
from tests.app.conftest import shown


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    """A trace recorded from the sample model, which this machine has."""
    from probes.model import load_model
    from probes.prompts import Prompt, Prompts
    from probes.recording.record import record
    from probes.sample import sample_path

    path = tmp_path_factory.mktemp("steering") / "sums.duckdb"
    model, tokenizer = load_model(sample_path() / "model")
    prompts = Prompts([Prompt(f"p{n}", str(n), text=f"{n}+{n}=", label="arithmetic") for n in (11, 23)], [])
    record(model, prompts, path, tokenizer=tokenizer, progress=False)
    return path


@pytest.fixture
def page(open_page, trace):
    def run(**choices):
        return open_page([trace], "steering", **choices)

    return run


def button(test, label):
    return next(b for b in test.button if b.label == label)


def labelled(widgets, label):
    return next(widget for widget in widgets if widget.label == label)


def ask(test, prompt="47+35=", tokens=6):
    test.text_area[0].set_value(prompt)
    labelled(test.number_input, "Max new tokens").set_value(tokens)
    return button(test, "Run").click().run(timeout=120)


def test_without_anything_to_change_it_cannot_run(page):
    test = page()
    assert not test.exception
    assert "Nothing yet" in shown(test)
    assert button(test, "Run").disabled


def test_a_link_fills_it_in_and_a_run_shows_both_sides(page):
    test = ask(page(spec="ban:expert=0.1+1.3"))
    assert not test.exception
    text = shown(test)
    for said in ("What does it write?", "Baseline", "Steered", "random control", "Who was chosen instead?", "matched"):
        assert said in text
    code = "\n".join(element.value for element in test.code)
    assert "--intervention ban:experts=0.1+1.3" in code
    assert '"name": "ban"' in code
    assert sum(bool(c.proto.alt) for c in test.get("plotly_chart")) == 2


def test_drawn_tokens_are_those_the_command_draws(page, capsys):
    test = page(spec="ban:expert=0.1")
    test = test.segmented_control(key="steering_drawn").set_value("sampled").run()
    labelled(test.number_input, "Temperature").set_value(1.7)
    labelled(test.number_input, "Seed").set_value(2_147_483_646)
    test = ask(test, "47+35=", 12)
    assert not test.exception
    assert button(test, "Keep both runs in a trace").disabled  # a recording writes the most likely tokens
    words = shlex.split(next(code.value for code in test.code if code.value.startswith("probe steer")))
    assert words[-6:] == ["--temperature", "1.7", "--top-p", "1.0", "--seed", "2147483646"]
    capsys.readouterr()
    assert main([*words[1:], "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    found = test.session_state["_steering"].outcome.found
    assert (said["baseline"]["ids"], said["steered"]["ids"]) == (found.baseline.ids, found.steered.ids)
    greedy = ask(page(spec="ban:expert=0.1"), "47+35=", 12).session_state["_steering"].outcome.found
    assert greedy.baseline.ids != found.baseline.ids


def test_both_runs_can_be_kept_and_are_seen_among_the_traces(page):
    test = ask(page(spec="ban:expert=0.1"), tokens=3)
    test = button(test, "Keep both runs in a trace").click().run(timeout=120)
    assert not test.exception
    assert "compare the two runs" in shown(test)
    picker = next(box for box in test.selectbox if box.label == "Trace")
    assert any(name.startswith("steered-") for name in picker.options)


def test_a_spec_that_does_not_fit_is_one_line(page):
    test = ask(page(spec="ban:layer=9,expert=1"))
    assert not test.exception
    assert "layer 9 has no router" in shown(test)


def test_a_link_that_cannot_be_read_says_so(page):
    test = page(spec="bann:expert=1")
    assert not test.exception
    assert "did you mean" in shown(test)
    assert "ban" in shown(test)


def test_hostile_text_stays_text(page):
    test = ask(page(spec="ban:expert=0.1"), "<img src=x onerror=alert(1)>", 2)
    assert not test.exception
    assert "<img" not in shown(test)


def test_interventions_can_be_removed_and_put_in_order(page):
    test = page(spec="ban:expert=0.1;temperature:tau=2")
    button(test, "Remove")
    earlier = [b for b in test.button if b.label == "Earlier"]
    assert [b.disabled for b in earlier] == [True, False]
    test = earlier[1].click().run()
    assert "temperature;ban:experts=0.1" in (test.query_params["spec"], *test.query_params["spec"])
    test = next(b for b in test.button if b.label == "Remove").click().run()
    assert "Router temperature" not in shown(test)
    assert "Ban experts" in shown(test)


@pytest.mark.parametrize("name", ["ban", "boost", "top_k", "capacity", "steermoe"])
def test_every_kind_of_option_has_a_widget(page, name):
    test = page()
    box = next(b for b in test.selectbox if b.label == "Intervention")
    test = box.set_value(name).run()
    assert not test.exception
    labels = {w.label for kind in (test.number_input, test.checkbox, test.selectbox, test.text_area) for w in kind}
    assert {o.name.replace("_", " ") for o in interventions()[name].options} <= labels


def test_a_form_adds_what_it_says(page):
    test = page()
    next(w for w in test.text_input if w.label == "Experts").set_value("2.4")
    test = button(test, "Add").click().run()
    assert not test.exception
    assert "ban:experts=2.4" in shown(test)


def test_a_form_that_names_nobody_says_so(page):
    test = page()
    next(w for w in test.text_input if w.label == "Experts").set_value("four")
    test = button(test, "Add").click().run()
    assert "whole numbers" in shown(test)


def test_a_model_elsewhere_is_asked_for(open_page, traces):
    test = open_page([traces["plain"]], "steering")
    assert not test.exception
    assert "--model FOLDER" in shown(test)


def test_others_do_not_steer_unless_that_was_meant(monkeypatch, open_page, trace):
    test = open_page(["--shared", trace], "steering")
    assert "Steering is switched off here" in shown(test)


def test_evaluation_shows_intervals_beside_controls(page):
    test = page(spec="ban:expert=0.1")
    next(b for b in test.selectbox if b.label == "Tasks").set_value("facts")
    next(n for n in test.number_input if n.label == "Max items").set_value(4)
    test = button(test, "Evaluate").click().run(timeout=180)
    assert not test.exception
    text = shown(test)
    assert "<caption>facts: ban</caption>" in text
    assert "exact match" in text
    assert "random controls" in text
    assert "1 load-matched control within 10 % of its load: 7.5 % of 240 assignments; theirs: 7.5 %" in text
    assert "(n = 1) load-matched" in text


@pytest.mark.parametrize("name", ["ensemble", "c3po"])
def test_a_decoding_strategy_is_evaluated_as_the_command_does(page, name, capsys):
    test = page()
    assert button(test, "Evaluate").disabled
    test = labelled(test.selectbox, "Decoding").set_value(name).run()
    options = strategies()[name].options
    labels = {w.label for kind in (test.number_input, test.checkbox, test.selectbox, test.text_input) for w in kind}
    assert {o.name.replace("_", " ") for o in options if o.name != "references"} <= labels
    labelled(test.selectbox, "Tasks").set_value("sums")
    labelled(test.number_input, "Max items").set_value(6)
    test = button(test, "Evaluate").click().run(timeout=180)
    assert not test.exception
    assert f"sums: {name}" in shown(test)
    words = shlex.split(next(code.value for code in test.code if code.value.startswith("probe eval")))
    capsys.readouterr()
    assert main([*words[1:], "--json"]) == 0
    rows = [row for row in json.loads(capsys.readouterr().out)["rows"] if row["arm"] != "baseline"]
    found, _ = test.session_state["_steering_eval"]
    assert [(r["measure"], r["value"]) for r in rows] == [
        (r.measure, r.value) for r in found.rows if r.arm == "steered"
    ]


def test_what_is_plain_decoding_says_so(page):
    test = page()
    test = labelled(test.selectbox, "Decoding").set_value("ensemble").run()
    labelled(test.number_input, "n").set_value(1)
    test = button(test, "Evaluate").click().run(timeout=60)
    assert "is plain decoding: nothing to compare" in shown(test)


def test_specs_too_long_to_type_are_a_file():
    spec = parse({"name": "output", "mode": "mean", "means": {"0": {"3": [0.5] * 1000}}})
    ban = parse("ban:expert=0.1")
    request = Request("model", "1+1=", Decoding(), (ban, spec))
    assert "--intervention interventions.json --max" in command(request)
    assert typed_specs([ban], together=True) == ["ban:experts=0.1"]
    assert typed_specs([parse({"name": "logit_vectors", "vectors": {"0": [1.0]}})], together=True) == [FILE]
    own = eval_command("model", Path("/nowhere/x/tasks.jsonl"), Arm("steered", (spec,), parse_strategy("ensemble")), 9)
    assert "--tasks tasks.jsonl --intervention 'interventions.json + ensemble' --limit 9" in own


def test_specs_in_the_address_round_trip():
    specs = [parse("ban:expert=0.1"), parse("boost:layer=2,expert=3,factor=4,phase=decode")]
    assert spec_form.read({"spec": spec_form.written(specs)}) == (specs, "")
    assert spec_form.written([parse({"name": "logit_vectors", "vectors": {"0": [1.0]}})]) == ""
    many = parse({"name": "prune", "experts": [[layer, expert] for layer in range(16) for expert in range(60)]})
    assert spec_form.written([many]) == ""  # rather than a list that is cut off
    found, problem = spec_form.read({"spec": str(many)})
    assert found == []
    assert "may have 4,000" in problem


def test_models_are_those_of_the_trace_and_those_given(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["dashboard.py", "--model", "one", "--model", "two"])
    assert live.models_of(SimpleNamespace(run={"model": "nowhere/at-all"})) == ["one", "two"]
    assert live.models_of(SimpleNamespace(run={"model": "elsewhere/sample_data/model"}))[0].endswith(
        "sample_data/model"
    )
