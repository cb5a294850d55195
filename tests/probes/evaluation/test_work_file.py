"""A work file of an evaluation is gone on with only for the model it was begun with."""

import copy
import hashlib
import json

import pytest

import probes.model
from probes.errors import ProbeError
from probes.evaluation import evaluate

ITEMS = [{"text": "the quick brown fox", "target": " jumps"}, {"text": "12+34", "target": "=46"}, {"text": "SELECT *"}]


@pytest.fixture
def tasks(tmp_path):
    path = tmp_path / "items.jsonl"
    path.write_text("\n".join(map(json.dumps, ITEMS)))
    return path


def run(model, tasks, work, tokenizer=None, **more):
    return evaluate(
        model,
        tasks,
        ["ban:layer=1,expert=3"],
        tokenizer=tokenizer,
        control_seeds=0,
        max_new_tokens=2,
        resume=work,
        **more,
    )


def values(found):
    return [(row.task, row.arm, row.measure, row.value) for row in found.rows]


def test_another_model_is_refused(olmoe, tokenizer, tasks, tmp_path):
    work, other = tmp_path / "work.jsonl", copy.deepcopy(olmoe)
    weight = other.model.layers[1].mlp.experts.down_proj.data.view(-1)
    weight[len(weight) // 64 + 1] += 0.5  # between the values that a sample of 64 looks at
    first, lines = run(olmoe, tasks, work, tokenizer), work.read_text()
    assert values(run(olmoe, tasks, work, tokenizer)) == values(first)
    with pytest.raises(ProbeError, match=r"another model \(other weights\)"):
        run(other, tasks, work, tokenizer)
    changed = copy.deepcopy(olmoe)
    for layer in changed.model.layers:
        layer.mlp.gate.top_k = 1
    with pytest.raises(ProbeError, match=r"another model \(other settings\)"):
        run(changed, tasks, work, tokenizer)
    assert work.read_text() == lines


def test_a_replaced_folder_is_refused_before_it_is_loaded(olmoe, tokenizer, tasks, tmp_path, monkeypatch):
    folder, work, other = tmp_path / "model", tmp_path / "work.jsonl", copy.deepcopy(olmoe)
    olmoe.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    run(folder, tasks, work)
    run(folder, tasks, work, load={"device": "cpu", "trust_remote_code": True})  # where it runs makes no other one
    moved = folder.rename(tmp_path / "moved")
    run(moved, tasks, work)
    other.lm_head.weight.data[3, 3] += 1
    other.save_pretrained(moved)

    def not_loaded(*args, **kwargs):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(probes.model, "load_model", not_loaded)
    with pytest.raises(ProbeError, match="another model"):
        run(moved, tasks, work)


def test_a_file_of_the_first_version_is_compared_as_far_as_that_goes(olmoe, tokenizer, tasks, tmp_path):
    work = tmp_path / "work.jsonl"
    run(olmoe, tasks, work, tokenizer)
    head, *rest = work.read_text().splitlines()
    asked = json.loads(head)["asked"]
    del asked["checkpoint"], asked["settings_fingerprint"]
    digest = hashlib.sha256()
    for name, parameter in sorted(olmoe.named_parameters()):
        flat = parameter.detach().numpy().reshape(-1)
        digest.update(f"{name}{tuple(parameter.shape)}".encode() + flat[:: max(1, flat.size // 64)][:64].tobytes())
    asked["weights_fingerprint"] = digest.hexdigest()[:32]
    whole = tokenizer.backend_tokenizer.to_str() + str(tokenizer.chat_template)
    asked["tokenizer_hash"] = hashlib.sha256(whole.encode()).hexdigest()[:32]
    work.write_text("\n".join([json.dumps({"asked": asked}), *rest, ""]))
    found = run(olmoe, tasks, work, tokenizer)
    assert any("only a sample of the weights could be compared" in note for note in found.notes)
    other = copy.deepcopy(olmoe)
    other.lm_head.weight.data += 1
    with pytest.raises(ProbeError, match="other weights"):
        run(other, tasks, work, tokenizer)
