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
    assert row.controls == 2
    assert row.control_min <= row.control <= row.control_max
    assert row.value > row.control_max
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
