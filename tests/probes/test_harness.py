"""The model as one of the lm-evaluation-harness, on a task of local files; skipped where the harness is not there."""

import builtins
import importlib.util
import json

import pytest

import probes
from probes.errors import ProbeError, UsageError
from probes.evaluation import evaluate
from probes.evaluation.arms import Arm, arm_of
from probes.harness import Requests, harness_model
from probes.sample import sample_path

HARNESS = importlib.util.find_spec("lm_eval") is not None
CHOICE, SUMS = (sample_path() / f"tasks/{name}.jsonl" for name in ("facts_choice", "sums"))


@pytest.fixture(scope="module")
def sample():
    return probes.load_model(sample_path() / "model", dtype="float32")


def test_its_absence_is_one_sentence(sample, monkeypatch):
    from probes import harness

    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("lm_eval"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    harness._lm_class.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ProbeError, match="router-workbench\\[harness\\]"):
        harness_model(*sample)
    monkeypatch.undo()
    harness._lm_class.cache_clear()


def test_requests_are_answered_as_by_the_model_itself(sample):
    requests = Requests(*sample, Arm("baseline"), batch_size=2)
    (right, greedy), (wrong, other), (spaced, _) = requests.pairs(
        [("Question: Tarvo lives in which town?\nAnswer:", " Mirn"), ("12+70=", "99"), ("Answer: ", "Mirn")]
    )
    assert greedy
    assert not other
    assert right > wrong
    assert spaced == pytest.approx(requests.pairs([("Answer:", " Mirn")])[0][0], abs=1e-4)
    texts = requests.texts([("12+70=", {"until": ["\n"], "max_gen_toks": 40}), ("76+76=", {"until": "</think>"})])
    assert texts == ["<think>2+0=2 carry 0; 1+7+0=8</think>82", "<think>6+6=12 carry 1; 7+7+1=15"]


def test_requests_under_interventions_and_strategies(sample):
    asked = [("12+70=", {"until": ["\n"], "max_gen_toks": 40})]
    (ruined,) = Requests(*sample, arm_of("random"), 4).texts(asked)
    (by_strategy,) = Requests(*sample, arm_of("ensemble:n=2"), 4).texts(asked)
    assert not ruined.endswith("82")
    assert by_strategy.endswith("</think>82")


@pytest.mark.skipif(not HARNESS, reason="lm-evaluation-harness is not installed")
@pytest.mark.filterwarnings("default")
def test_a_local_task_has_the_accuracy_of_probe_eval(sample, tmp_path, monkeypatch):
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    lines = [json.loads(line) for line in CHOICE.read_text().splitlines()[:12]]
    data = tmp_path / "facts.jsonl"
    rows = [{**{k: x[k] for k in ("text", "choices")}, "gold": x["choices"].index(x["target"])} for x in lines]
    data.write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "facts.yaml").write_text(
        f"task: local_facts\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {data}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: '{{text}}'\ndoc_to_choice: '{{choices}}'\n"
        "doc_to_target: gold\ntarget_delimiter: ' '\nmetric_list:\n  - metric: acc\n"
    )
    for interventions in ((), ["random"]):
        lm = harness_model(*sample, interventions)
        manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
        found = simple_evaluate(model=lm, tasks=["local_facts"], task_manager=manager, bootstrap_iters=0)
        ours = evaluate(sample[0], CHOICE, interventions, tokenizer=sample[1], limit=12, control_seeds=0)
        accuracy = ours.row("facts_choice", "random" if interventions else "baseline", "choice_accuracy").value
        if not interventions:
            assert found["results"]["local_facts"]["acc,none"] == pytest.approx(accuracy) == 1
        else:
            assert found["results"]["local_facts"]["acc,none"] <= 1


@pytest.mark.skipif(not HARNESS, reason="lm-evaluation-harness is not installed")
@pytest.mark.filterwarnings("default")
def test_long_texts_are_read_in_windows(sample):
    lm = harness_model(*sample)
    (line,) = [json.loads(row)["text"] for row in (sample_path() / "prompts.jsonl").read_text().splitlines()[:1]]
    short, long = lm._requests.whole(line), lm._requests.whole("\n".join([line] * 4))
    assert long < short < 0


@pytest.mark.skipif(not HARNESS, reason="lm-evaluation-harness is not installed")
@pytest.mark.filterwarnings("default")
def test_what_does_not_fit_is_refused(sample):
    with pytest.raises(UsageError, match="layer 9 has no router"):
        harness_model(*sample, ["ban:layer=9,expert=1"])
