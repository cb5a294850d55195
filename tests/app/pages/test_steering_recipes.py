"""Interventions from what a trace says: every recipe through its form, to the list and to a run."""

import pytest

from app import data
from app.pages import Here
from app.steering import recipe_build, recipe_form, spec_form
from probes.interventions import interventions, parse
from probes.recipes import recipes, specs_of
from probes.sample import sample_path
from tests.app.conftest import shown
from tests.app.traces import Shape, open_writer


@pytest.fixture(scope="module")
def model():
    from probes.model import load_model

    return load_model(sample_path() / "model")


@pytest.fixture(scope="module")
def trace(model, tmp_path_factory):
    """Every twelfth prompt of the sample, with all that recipes read."""
    from probes.recording.record import record

    folder = tmp_path_factory.mktemp("recipes")
    lines = (sample_path() / "prompts.jsonl").read_text("utf-8").splitlines()[::12]
    (folder / "prompts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    capture = "logits,weights,norms,moments,hidden"
    path = folder / "some.duckdb"
    record(model[0], folder / "prompts.jsonl", path, tokenizer=model[1], capture=capture, progress=False)
    return path


@pytest.fixture
def page(open_page, trace):
    """The form of one recipe, with these words typed."""

    def run(recipe, *given, **words):
        test = open_page(given or [trace], "steering")
        test = test.segmented_control(key="steering_way").set_value("From this trace").run()
        test = box(test, "Recipe").set_value(recipe).run()
        for name, value in words.items():
            box(test, name.replace("_", " ")).set_value(value)
        assert not test.exception
        return button(test, "Look whom it names").click().run(timeout=60)

    return run


def box(test, label):
    kinds = (test.selectbox, test.number_input, test.text_input, test.checkbox, test.text_area)
    return next(w for kind in kinds for w in kind if w.label == label)


def button(test, label):
    return next(b for b in test.button if b.label == label)


def listed(test):
    return [b for b in test.button if b.label == "Remove"]


ASKED = {
    "npmi": {"label": "arithmetic", "top": 3},
    "risk_difference": {"label": "arithmetic", "against": "facts", "ending": 2},
    "expert_importance": {"criterion": "frequency", "keep": 0.5},
    "super_experts": {},
    "expert_clusters": {"clusters": 10},
    "mean_outputs": {"share": 0.2},
}


def test_every_recipe_is_tried():
    assert set(ASKED) == set(recipes())


@pytest.mark.parametrize("name", sorted(ASKED))
def test_what_is_added_is_what_the_command_line_builds(page, trace, name):
    test = page(name, **ASKED[name])
    assert not test.exception
    assert not listed(test)  # looked at, not yet added
    test = button(test, "Add to the list").click().run(timeout=60)
    assert not test.exception
    assert len(listed(test)) == 1
    words = ",".join(f"{option}={value}" for option, value in ASKED[name].items())
    (spec,) = specs_of(f"{name}:{words}", trace)
    (added,) = test.session_state["_steering"].specs
    assert added == spec


def test_the_form_is_made_from_the_declaration(page):
    for name, declared in recipes().items():
        test = page(name)
        labels = {w.label for kind in (test.number_input, test.checkbox, test.selectbox, test.text_input) for w in kind}
        assert {option.name.replace("_", " ") for option in declared.options} <= labels
        assert ("What is done to them" in labels) == bool(declared.action)


def test_it_says_whom_it_names_and_from_how_much(page, trace):
    test = page("npmi", label="arithmetic", top=2)
    text = shown(test)
    (spec,) = specs_of("npmi:label=arithmetic,top=2", trace)
    pairs = [f"{layer}·{expert}" for layer, expert in sorted(spec.scope.experts, key=lambda pair: pair[0])]
    assert f"Ban experts: 2 experts in {len({p[0] for p in pairs})} layer" in text
    assert f": {', '.join(pairs)}." in text
    assert "From all" in text
    assert any("- name: ban" in element.value for element in test.code)


def test_another_action_has_its_own_options(page, trace):
    test = page("npmi", label="arithmetic")
    test = box(test, "What is done to them").set_value("boost").run()
    box(test, "factor").set_value(16.0)
    test = button(test, "Look whom it names").click().run(timeout=60)
    assert "factor: 16" in "\n".join(element.value for element in test.code)
    test = button(test, "Add to the list").click().run(timeout=60)
    (added,) = test.session_state["_steering"].specs
    assert (added,) == specs_of("npmi:label=arithmetic,action=boost,factor=16", trace)


def test_what_is_missing_is_one_line(page, trace):
    assert "npmi goes by a label, a marker or a contrast" in shown(page("npmi"))
    here = data.identify(str(trace))
    assert "did you mean 'arithmetic'" in recipe_build.built(here, 1, "npmi", {"label": "arithmetik"})
    assert "no sequence of run 1" in recipe_build.built(here, 1, "risk_difference", {"label": "a=1", "against": "a=2"})


def test_a_trace_without_moments_says_what_to_record(open_page, model, tmp_path):
    """The form is drawn, and the recipe answers with the level that would have to be recorded."""
    from probes.prompts import Prompt, Prompts
    from probes.recording.record import record

    path = tmp_path / "plain.duckdb"
    record(model[0], Prompts([Prompt("p", "0", text="1+1=")], []), path, tokenizer=model[1], progress=False)
    trace = data.identify(str(path))
    found = recipe_build.built(trace, 1, "mean_outputs", {})
    assert found == "mean_outputs needs mean outputs: record with --capture moments"


def test_a_run_without_rows_names_nobody_yet(page, tmp_path):
    path = tmp_path / "norows.duckdb"
    with open_writer(path, Shape()):
        test = page("expert_importance", "--model", sample_path() / "model", path)
        assert not test.exception
        assert "No routing has been recorded yet" in shown(test)


def test_a_large_trace_is_read_in_part(trace, monkeypatch):
    monkeypatch.setattr(data, "SAMPLE_ROWS", 4_000)
    asked = recipe_build.Bounded(data.identify(str(trace)), 1)
    drawn, n_tokens = data.drawn.__wrapped__(asked.trace, 1, 4_000)
    assert 0 < len(drawn) < 35
    monkeypatch.setattr(data, "drawn", lambda *_: (drawn, n_tokens))
    source = asked.source(None)
    assert source.n_sequences == len(drawn)
    (sample,) = asked.samples
    assert (sample.values, sample.n_sequences, sample.of_sequences) == ("sample", len(drawn), 35)


def test_long_tables_are_cut_in_the_preview_only():
    spec = parse({"name": "output", "mode": "mean", "means": {"0": {"3": [0.123456789] * 500}}})
    text = recipe_build.preview((spec,))
    assert "… 492 more" in text
    assert "0.1235" in text
    assert len(text) < 400
    assert len(spec.as_dict()["means"]["0"]["3"]) == 500


def test_a_keep_list_says_what_stays():
    spec = parse("prune:expert=0.1+0.2+1.3")
    assert recipe_build.says((spec,), {0: 16, 1: 16}).endswith("keeps 3 of 32 experts in 2 layers.")


def test_the_command_asks_the_whole_recording():
    here = Here(data.TraceFile("/x/a trace.duckdb", 0, 0), {"run_id": 2}, None, False)
    said = recipe_form.command(here, "npmi", {"label": "sums", "top": 3})
    assert said == "probe interventions npmi:label=sums,top=3 --from 'a trace.duckdb' --run 2 > spec.yaml"


def test_a_visitor_names_no_files(page, tmp_path):
    secret = tmp_path / "specs.json"
    secret.write_text('[{"name": "ban", "expert": 1}]', encoding="utf-8")
    for text in (str(secret), f"output:mode=mean,means={secret},expert=1", f"output:members={secret}"):
        assert spec_form.read({"spec": text}) == ([], spec_form.NO_FILES)
    tables = {o.kind for one in interventions().values() for o in one.options} & {"means", "members", "vectors"}
    assert tables == {"means", "members", "vectors"}
