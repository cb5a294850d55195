"""An evaluation of the sample model: what it finds, that it can be interrupted, and what it refuses."""

import json

import pytest

import probes
from probes.errors import ProbeError, UsageError
from probes.evaluation import evaluate
from probes.evaluation.arms import arm_of, arms_of, check_arms, controls, experts_in, reseeded, step_by_step
from probes.interventions import parse
from probes.sample import sample_path

SUMS, CHOICE, TEXT = (
    sample_path() / path for path in ("tasks/sums.jsonl", "tasks/facts_choice.jsonl", "prompts.jsonl")
)
ROUTERS = dict.fromkeys(range(4), 16)


@pytest.fixture(scope="module")
def sample():
    return probes.load_model(sample_path() / "model")


@pytest.fixture(scope="module")
def found(sample):
    model, tokenizer = sample
    return evaluate(
        model,
        [SUMS, CHOICE, TEXT],
        ["random", "boost:layer=2,expert=3,factor=1", "ban:layer=3,expert=14"],
        tokenizer=tokenizer,
        control_seeds=2,
        limit=6,
        max_new_tokens=40,
    )


def test_the_baseline_is_the_published_one(found):
    assert found.row("sums", "baseline", "exact_match").value == 1
    assert found.row("facts_choice", "baseline", "choice_accuracy").value == 1
    assert 1 < found.row("prompts", "baseline", "perplexity").value < 2


def test_random_routing_ruins_it(found):
    row = found.row("sums", "random", "exact_match")
    assert (row.value, row.difference, row.n) == (0, -1, 6)
    assert (row.difference_low, row.difference_high) == (-1, -1)
    assert found.row("sums", "random", "kl").value > 1
    assert found.row("prompts", "random", "perplexity").difference > 1


def test_what_changes_nothing_differs_in_nothing(found):
    (neutral,) = [name for name in found.arms if "factor=1" in name and "control" not in name]
    rows = [row for row in found.rows if row.arm == neutral]
    assert {row.measure for row in rows} >= {"exact_match", "perplexity", "kl", "length", "choice_accuracy"}
    for row in rows:
        assert row.difference in (None, 0)
        assert row.p in (None, 1)
        assert row.measure != "kl" or row.value == 0


def test_controls_are_there(found):
    row = found.row("sums", "ban:layers=3,experts=14", "kl")
    assert row.controls == 1  # only one other expert of layer 3 has nearly the same load on these sums
    assert (row.control_kind, row.control_note) == ("load-matched", "only 1 different load-matched set exists")
    assert row.load == pytest.approx(row.control_load_min, rel=0.1)
    assert row.control_min <= row.control <= row.control_max
    assert row.value < row.control_min  # as busy an expert is missed more: 3·14 is not what makes the sums
    assert row.beyond == pytest.approx(row.value - row.control)
    assert row.p_control_holm >= row.p_control


def test_the_result_is_json_and_a_table(found):
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["rows"]
    assert len(found.frame()) == len(found.rows)
    outputs = [item for item in found.items if item["task"] == "sums" and item["arm"] == "baseline"]
    assert outputs[0]["output"].endswith("</think>82")
    assert outputs[0]["expected"] == "82"


def test_an_interrupted_evaluation_goes_on(sample, tmp_path):
    model, tokenizer = sample
    settings = {"tokenizer": tokenizer, "control_seeds": 1, "limit": 8, "batch_size": 4, "max_new_tokens": 40}
    specs = ["noise:tau=2"]
    work = tmp_path / "work.jsonl"
    steps = []

    def stop(done, total, arm):
        steps.append(arm)
        if len(steps) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(model, SUMS, specs, resume=work, progress=stop, **settings)
    half = work.read_text()
    work.write_text(half + '{"arm": "[]", "ta')  # as if cut while writing
    again = evaluate(model, SUMS, specs, resume=work, **settings)
    assert work.read_text().startswith(half)
    assert again.rows == evaluate(model, SUMS, specs, **settings).rows
    ran = []
    evaluate(model, SUMS, specs, resume=work, progress=lambda d, t, arm: ran.append(arm), **settings)
    assert ran == [""]
    with pytest.raises(ProbeError, match="another batch_size"):
        evaluate(model, SUMS, specs, resume=work, **{**settings, "batch_size": 2})
    work.write_text("something else\n")
    with pytest.raises(ProbeError, match="no line of a work file"):
        evaluate(model, SUMS, specs, resume=work, **settings)


def test_arms_of_several():
    one, two = arms_of(["ban:layer=3,expert=7+9", "ban:layer=3,expert=7 + boost:layer=1,expert=2"])
    assert len(one.specs) == 1
    assert [spec.name for spec in two.specs] == ["ban", "boost"]
    with pytest.raises(UsageError, match="twice"):
        arms_of(["random", "random"])


def test_a_file_is_one_arm(tmp_path):
    path = tmp_path / "two.yaml"
    path.write_text("- ban: {layer: 3, expert: 7}\n- temperature: {tau: 2}\n")
    arm = arm_of(str(path))
    assert (arm.name, len(arm.specs)) == ("two", 2)


def test_controls_name_as_many_other_experts():
    arm = arm_of("ban:expert=0.1+0.2+3.5 + boost:layer=0,expert=1")
    for control in controls(arm, ROUTERS, 4):
        ban, boost = (experts_in(spec, ROUTERS) for spec in control.specs)
        assert {layer: len(set(some)) for layer, some in ban.items()} == {0: 2, 3: 1}
        assert not set(ban[0]) & {1, 2}
        assert boost[0][0] == ban[0][0]  # the same expert in both, as in the arm
    assert len({control.key for control in controls(arm, ROUTERS, 4)}) > 1
    assert controls(arm, ROUTERS, 2) == controls(arm, ROUTERS, 2)


def test_controls_of_the_nameless_choose_at_random_in_the_same_scope():
    (control,) = controls(arm_of("temperature:layer=1,tau=3,phase=decode"), ROUTERS, 1)
    (spec,) = control.specs
    assert (spec.name, spec.scope.layers, spec.scope.phase) == ("random", (1,), "decode")


def test_batches_draw_for_themselves_and_decoding_is_read_in_steps():
    first, second = (reseeded([parse("random")], batch)[0].scope.seed for batch in (0, 1))
    assert first != second
    assert step_by_step(arm_of("random:phase=decode"))
    assert step_by_step(arm_of("contrast"))
    assert not step_by_step(arm_of("random + top_k:k=1"))


@pytest.mark.parametrize(
    ("specs", "said"),
    [
        (["ban:layer=9,expert=1"], "layer 9 has no router"),
        (["ban:layer=1,expert=99"], "experts 0 to 15"),
        (["bann:layer=1,expert=1"], "did you mean 'ban'"),
        (["bias:layer=1,expert=1,delta=nan"], "finite"),
        (["ban:layer=1,expert=0-14"], "experts left"),
    ],
)
def test_bad_interventions_are_refused_before_the_model_is_asked(sample, specs, said):
    model, tokenizer = sample
    with pytest.raises(UsageError, match=said) as error:
        evaluate(model, SUMS, specs, tokenizer=tokenizer, limit=2)
    assert "\n" not in str(error.value)


def test_routers_are_counted(sample):
    assert check_arms([arm_of("random")], *sample) == ROUTERS


def test_controls_of_sets_and_tables_and_keep_lists():
    sets, table, kept = (
        arm_of(given)
        for given in (
            "steermoe:activate=3.14+3.2,deactivate=2.3",
            {"name": "output", "mode": "other", "members": {"1": {"4": {"4": 2, "5": 1}, "5": {"4": 2, "5": 1}}}},
            "prune:layer=0,keep=0-7",
        )
    )
    for control in controls(sets, ROUTERS, 3):
        named = experts_in(control.specs[0], ROUTERS)
        assert {layer: len(some) for layer, some in named.items()} == {2: 1, 3: 2}
        assert not set(named[3]) & {14, 2}
    for control in controls(table, ROUTERS, 3):
        ((_, row),) = control.specs[0].options["members"].items()
        assert [sorted(inner.values()) for inner in row.values()] == [[1, 2], [1, 2]]
        assert all(inner.keys() == row.keys() for inner in row.values())
        assert not set(row) & {"4", "5"}
    # Half of a keep-list's control is on the list: its complement would be the worst choice there is.
    drawn = [set(experts_in(control.specs[0], ROUTERS)[0]) for control in controls(kept, ROUTERS, 20)]
    assert all(len(some) == 8 for some in drawn)
    assert any(some & set(range(8)) for some in drawn)


def test_decoding_strategies_are_arms(sample, tmp_path):
    model, tokenizer = sample
    found = evaluate(
        model,
        SUMS,
        ["ensemble:n=1", "ensemble:n=2,tau=30,spare_ends=false", "contrast", "top_k:k=1 + ensemble:n=1"],
        tokenizer=tokenizer,
        limit=4,
        control_seeds=1,
        max_new_tokens=40,
    )
    neutral = found.row("sums", "ensemble:n=1", "exact_match")
    assert (neutral.value, neutral.difference, neutral.controls) == (1, 0, 0)
    assert found.row("sums", "ensemble:n=1", "kl").value < 1e-4
    noisy = next(name for name in found.arms if "tau=30" in name)
    assert found.row("sums", noisy, "kl").value > 0.01
    with pytest.raises(KeyError):
        found.row("sums", "contrast", "kl")
    assert any("contrast: no kl, it is infinite" in note for note in found.notes)
    assert found.settings["reading"] == "token by token"
    both = next(name for name in found.arms if "top_k" in name and "control" not in name)
    assert [part["name"] for part in found.arms[both]] == ["top_k", "ensemble"]
    with pytest.raises(UsageError, match="one decoding strategy at a time"):
        arm_of("contrast + ensemble:n=2")


def test_recipes_are_arms(sample, tmp_path):
    model, tokenizer = sample
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("\n".join(TEXT.read_text("utf-8").splitlines()[::40]), encoding="utf-8")
    probes.record(model, prompts, tmp_path / "t.duckdb", tokenizer=tokenizer)
    recipe = "npmi:label=arithmetic,top=2,action=ban"
    found = evaluate(
        model,
        SUMS,
        recipe,
        tokenizer=tokenizer,
        trace=tmp_path / "t.duckdb",
        limit=2,
        control_seeds=1,
        max_new_tokens=8,
    )
    assert found.row("sums", recipe, "kl").controls == 1
    assert len(found.arms[recipe][0]["experts"]) == 2
