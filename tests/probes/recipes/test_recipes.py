"""Specs built from a recording name the experts that the metric ranks first, and are accepted by the model."""

import json

import pytest

import probes
from probes.cli.main import main
from probes.errors import ProbeError, UsageError
from probes.interventions import interventions, parse_all
from probes.recipes import build, recipes, specs_of
from probes.sample import sample_path


@pytest.fixture(scope="module")
def sample():
    return probes.load_model(sample_path() / "model")


@pytest.fixture(scope="module")
def trace(sample, tmp_path_factory):
    """Every seventh prompt of the sample, with all that recipes read."""
    folder = tmp_path_factory.mktemp("recipes")
    lines = (sample_path() / "prompts.jsonl").read_text("utf-8").splitlines()[::7]
    (folder / "prompts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    model, tokenizer = sample
    capture = "logits,weights,norms,moments,hidden"
    probes.record(model, folder / "prompts.jsonl", folder / "t.duckdb", tokenizer=tokenizer, capture=capture)
    return folder / "t.duckdb"


def pairs(spec):
    return set(spec.scope.experts)


def test_npmi_names_the_best_of_the_table(trace):
    (spec,) = build("npmi:label=arithmetic,top=3,action=boost,factor=8,phase=decode", trace)
    frame = probes.analyze(trace, "npmi")
    frame = frame[frame["target"] == "arithmetic"].nlargest(3, "npmi")
    assert pairs(spec) == set(zip(frame["layer"], frame["expert"], strict=True))
    assert (spec.name, spec.options["factor"], spec.scope.phase) == ("boost", 8.0, "decode")


def test_so_many_of_each_layer(trace):
    (spec,) = build("npmi:label=sql,top=2,per_layer=true,layers=0-2", trace)
    assert spec.name == "ban"
    layers = [layer for layer, _ in spec.scope.experts]
    assert sorted(layers) == [0, 0, 1, 1, 2, 2]


def test_a_contrast_ranks_over_the_model(trace):
    (spec,) = build("npmi:contrast=<think>,minus=</think>,action=boost", trace)
    frame = probes.analyze(trace, "npmi", contrast="<think>", minus=("</think>",)).head(2)
    assert pairs(spec) == set(zip(frame["layer"], frame["expert"], strict=True))


@pytest.mark.skipif("steermoe" not in interventions(), reason="the catalogue has no steermoe yet")
def test_risk_difference_makes_two_sets_and_their_reverse(trace):
    words = "risk_difference:label=ask=text,against=ask=memory,activate=3,deactivate=2"
    (forth,), (back,) = build(words, trace), build(f"{words},reverse=true", trace)
    frame = probes.analyze(trace, "risk_difference", label="ask=text", against="ask=memory")
    ordered = frame.sort_values(["rd", "layer", "expert"], ascending=[False, True, True])
    named = [f"{row.layer}.{row.expert}" for row in ordered.itertuples()]
    assert set(forth.options["activate"]) == set(named[:3])
    assert set(forth.options["deactivate"]) == set(named[-2:])
    assert set(back.options["activate"]) == set(named[-3:])


def test_the_ending_counts_only_the_last_tokens(trace):
    """Over all tokens it is the metric itself; over the last ones, counted by hand."""
    from probes.recipes.base import Asked
    from probes.recipes.risk_difference import at_the_end

    pair = {"label": "arithmetic", "against": "sql"}
    whole = at_the_end(Asked(trace), 10_000, None, **pair).set_index(["layer", "expert"])["rd"]
    metric = probes.analyze(trace, "risk_difference", **pair).set_index(["layer", "expert"])["rd"]
    assert whole.to_dict() == pytest.approx(metric.to_dict())
    shares = (
        probes.open_trace(trace)
        .sql(
            "SELECT s.label, count(*) FILTER (expert = 14) / count(DISTINCT (sequence_id, position)) AS share "
            "FROM assignments JOIN sequences s USING (run_id, sequence_id) "
            "WHERE layer = 3 AND position >= s.n_tokens - 5 GROUP BY 1"
        )
        .set_index("label")["share"]
    )
    last = at_the_end(Asked(trace), 5, "3", **pair).set_index(["layer", "expert"])["rd"]
    assert last[3, 14] == pytest.approx(shares["arithmetic"] - shares["sql"])
    (spec,) = build("risk_difference:label=arithmetic,against=sql,ending=5,activate=1,deactivate=0", trace)
    assert len(spec.options["activate"]) == 1


@pytest.mark.skipif("prune" not in interventions(), reason="the catalogue has no prune yet")
@pytest.mark.parametrize("criterion", ["frequency", "reap", "easy_ep", "mone"])
def test_keep_lists_are_what_the_metric_marks(trace, criterion):
    (spec,) = build(f"expert_importance:criterion={criterion},keep=0.5", trace)
    frame = probes.analyze(trace, "expert_importance", criterion=criterion, keep=0.5)
    kept = frame[frame["keep"]]
    assert spec.name == "prune"
    assert pairs(spec) == set(zip(kept["layer"], kept["expert"], strict=True))


def test_super_experts_are_named_or_said_to_be_none(trace):
    frame = probes.analyze(trace, "super_experts")
    found = frame[frame["is_super"].fillna(False).astype(bool)]
    if len(found):
        (spec,) = build("super_experts:action=zero", trace)
        assert pairs(spec) == set(zip(found["layer"], found["expert"], strict=True))
    else:
        with pytest.raises(ProbeError, match="names no expert"):
            build("super_experts", trace)


@pytest.mark.skipif("output" not in interventions(), reason="the catalogue has no output yet")
def test_merged_clusters_and_novices(trace):
    (merged,) = build("expert_clusters:clusters=12", trace)
    frame = probes.analyze(trace, "expert_clusters", clusters=12)
    sizes = frame.groupby(["layer", "cluster"]).size()
    assert sum(len(row) for row in merged.options["members"].values()) == sizes[sizes > 1].sum()
    (novices,) = build("mean_outputs:criterion=frequency,share=0.25", trace)
    assert {layer: len(row) for layer, row in novices.options["means"].items()} == dict.fromkeys("0123", 4)


@pytest.mark.parametrize("name", sorted(recipes()))
def test_every_example_is_a_spec_that_the_model_takes_and_a_file_keeps(name, sample, trace, tmp_path, capsys):
    needed = {"risk_difference": "steermoe", "expert_importance": "prune"}.get(name, "output" if "_" in name else "ban")
    if needed not in interventions() and name != "super_experts":
        pytest.skip(f"the catalogue has no {needed} yet")
    assert main(["interventions", recipes()[name].example, "--from", str(trace)]) == 0
    (tmp_path / "spec.yaml").write_text(capsys.readouterr().out, encoding="utf-8")
    specs = specs_of(recipes()[name].example, trace)
    assert parse_all(tmp_path / "spec.yaml") == specs
    model, tokenizer = sample
    import torch

    with probes.steer(model, specs), torch.no_grad():
        model(**tokenizer("47+35=", return_tensors="pt"))


def test_recipes_join_with_interventions(trace):
    specs = specs_of("npmi:label=arithmetic,top=1 + temperature:tau=2", trace)
    assert [spec.name for spec in specs] == ["ban", "temperature"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("npmi:label=arithmtic", "did you mean 'arithmetic'"),
        ("npmi:top=2", "one of them"),
        ("npmi:label=sql,marker=x", "one of them"),
        ("npmi:label=sql,top=0", "at least 1"),
        ("npmi:label=sql,action=bann", "did you mean 'ban'"),
        ("npmi:label=sql,factor=2", "unknown parameter of ban 'factor'"),
        ("npmi:label", "no key=value"),
        ("nmpi:label=sql", "did you mean 'npmi'"),
        ("risk_difference:label=ask=text", "compares two sets"),
        ("expert_importance:criterion=reep", "did you mean 'reap'"),
        ("risk_difference:label=a,against=b,action=ban", "takes no action"),
    ],
)
def test_mistakes_are_one_line(trace, words, said):
    with pytest.raises(UsageError, match=said) as error:
        specs_of(words, trace)
    assert "\n" not in str(error.value)


def test_a_recipe_needs_a_recording(capsys):
    with pytest.raises(UsageError, match="--from TRACE"):
        specs_of("npmi:label=sql")
    assert main(["interventions", "--from", "x.duckdb"]) == 2
    assert "build what?" in capsys.readouterr().err


def test_recipes_are_listed_and_defined(capsys):
    assert main(["interventions", "--json"]) == 0
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)["recipes"]}
    assert found.keys() == recipes().keys()
    assert main(["interventions", "npmi"]) == 0
    assert "arXiv 2505.14681" in capsys.readouterr().out
