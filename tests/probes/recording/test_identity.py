"""Whose run is it? A recording is resumed, or called complete, only with the model it was made with."""

import copy
import hashlib
import json
import os
import time

import duckdb
import numpy as np
import pytest

import probes.model
from probes.errors import ProbeError
from probes.families import families
from probes.families.tiny import tiny_model
from probes.recording.fingerprints import (
    checkpoint_fingerprint,
    settings_fingerprint,
    tokenizer_fingerprint,
    weights_fingerprint,
)
from probes.recording.plan import plan_batches
from probes.recording.record import record
from probes.recording.session import Feeder
from probes.recording.target import begun_on
from store import database
from store.errors import TraceError
from store.trace import open_trace

COMPLETE = "this run was complete already"


@pytest.fixture
def fine_tuned(olmoe):
    """The same model but for one number, which a sample of 64 values per tensor does not see."""
    other = copy.deepcopy(olmoe)
    weight = other.model.layers[1].mlp.experts.down_proj
    weight.data.view(-1)[weight.numel() // 64 + 1] += 0.5
    return other


def killed(monkeypatch, model, prompts, path, batches=3, **options):
    """A recording that ends after some batches."""
    original = Feeder.batch

    def stops(self, index, group):
        if index == batches:
            raise KeyboardInterrupt
        return original(self, index, group)

    with monkeypatch.context() as patch:
        patch.setattr(Feeder, "batch", stops)
        with pytest.raises(KeyboardInterrupt):
            record(model, prompts, path, batch_size=4, progress=False, **options)


def rows(path, run_id=1):
    chunks = list(open_trace(path).chunks(run_id, columns=("experts", "weights")))
    order = np.concatenate([c["sequence_id"] for c in chunks]).argsort(kind="stable")
    return [np.concatenate([c[name] for c in chunks])[order] for name in ("token_id", "experts", "weights")]


def provenance(path, run_id=1):
    found = open_trace(path).run(run_id)["provenance"]
    return json.loads(found) if isinstance(found, str) else found


def test_other_weights_are_another_run(olmoe, fine_tuned, tokenizer, prompts_file, tmp_path):
    path, options = tmp_path / "t.duckdb", {"tokenizer": tokenizer, "progress": False}
    record(olmoe, prompts_file, path, **options)
    assert COMPLETE in record(olmoe, prompts_file, path, resume=True, **options).notes
    other = record(fine_tuned, prompts_file, path, resume=True, **options)
    assert other.run_id == 2
    assert COMPLETE not in other.notes
    assert any("run 1 is of another model (other weights); this is a new run" in note for note in other.notes)
    assert COMPLETE in record(fine_tuned, prompts_file, path, resume=True, **options).notes
    assert provenance(path, 1)["weights_fingerprint"] != provenance(path, 2)["weights_fingerprint"]


def test_a_killed_recording_is_not_finished_with_another_model(
    olmoe, fine_tuned, tokenizer, prompts_file, tmp_path, monkeypatch
):
    path, options = tmp_path / "t.duckdb", {"tokenizer": tokenizer, "progress": False, "batch_size": 4}
    killed(monkeypatch, olmoe, prompts_file, path, tokenizer=tokenizer)
    before = rows(path)
    with pytest.raises(ProbeError, match=r"interrupted run 1 is of another model \(other weights\)"):
        record(fine_tuned, prompts_file, path, resume=True, **options)
    assert all(np.array_equal(a, b) for a, b in zip(rows(path), before, strict=True))
    record(olmoe, prompts_file, path, resume=True, **options)
    whole = tmp_path / "whole.duckdb"
    record(olmoe, prompts_file, whole, **options)
    assert all(np.array_equal(a, b) for a, b in zip(rows(path), rows(whole), strict=True))


def test_what_the_routers_go_by_belongs_to_the_model(olmoe, tokenizer, prompts_file, tmp_path, monkeypatch):
    path = tmp_path / "t.duckdb"
    killed(monkeypatch, olmoe, prompts_file, path, tokenizer=tokenizer)
    changed = copy.deepcopy(olmoe)
    for layer in changed.model.layers:
        layer.mlp.gate.top_k = 1
    with pytest.raises(ProbeError, match="other settings"):
        record(changed, prompts_file, path, resume=True, tokenizer=tokenizer, batch_size=4, progress=False)


def test_another_tokenizer_is_another_model(olmoe, tokenizer, prompts_file, tmp_path, monkeypatch):
    """Also where the ids come out the same: the texts of the tokens would be mixed."""
    path, other = tmp_path / "t.duckdb", copy.deepcopy(tokenizer)
    killed(monkeypatch, olmoe, prompts_file, path, tokenizer=tokenizer)
    other.add_tokens(["☃"])
    with pytest.raises(ProbeError, match="other tokenizer"):
        record(olmoe, prompts_file, path, resume=True, tokenizer=other, batch_size=4, progress=False)


def test_other_labels_are_another_plan(olmoe, tokenizer, tmp_path, monkeypatch):
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for label, file in zip("ab", files, strict=True):
        lines = [json.dumps({"text": f"the dog {n}", "label": label}) for n in range(20)]
        file.write_text("\n".join(lines))
    killed(monkeypatch, olmoe, files[0], tmp_path / "t.duckdb", tokenizer=tokenizer)
    with pytest.raises(ProbeError, match="other prompts"):
        record(olmoe, files[1], tmp_path / "t.duckdb", resume=True, tokenizer=tokenizer, batch_size=4, progress=False)


def test_padding_a_tokenizer_makes_no_other_one_of_it(tokenizer):
    before, other = tokenizer_fingerprint(tokenizer), copy.deepcopy(tokenizer)
    other(["a", "bc"], padding="max_length", truncation=True, max_length=8)
    assert tokenizer_fingerprint(other) == before
    other.chat_template = "{{ messages }}"
    assert tokenizer_fingerprint(other) != before


@pytest.mark.parametrize("other", [{"device": "cpu"}, {"trust_remote_code": True}, {"dtype": "float32"}, {"limit": 40}])
def test_where_and_how_a_model_is_run_is_no_part_of_a_run(olmoe_folder, prompts_file, tmp_path, other):
    path = tmp_path / "t.duckdb"
    record(olmoe_folder, prompts_file, path, progress=False)
    again = record(olmoe_folder, prompts_file, path, resume=True, progress=False, **other)
    assert again.run_id == 1
    assert COMPLETE in again.notes
    assert len(open_trace(path).runs()) == 1


def test_batches_of_another_device_are_kept(olmoe, tokenizer, prompts_file, tmp_path, monkeypatch):
    """Batches chosen by tokens are larger on a GPU; a run begun there goes on with them elsewhere."""
    path, whole = tmp_path / "t.duckdb", tmp_path / "whole.duckdb"
    monkeypatch.setattr("probes.recording.plan.TOKENS_PER_BATCH", {"cpu": 200, "cuda": 400})
    options = {"tokenizer": tokenizer, "progress": False}
    record(olmoe, prompts_file, whole, **options)
    monkeypatch.setattr("probes.recording.record.begun_on", lambda out: "cuda")
    monkeypatch.setattr(Feeder, "batch", _stopping(Feeder.batch, 1))
    with pytest.raises(KeyboardInterrupt):
        record(olmoe, prompts_file, path, resume=True, **options)
    monkeypatch.undo()
    monkeypatch.setattr("probes.recording.plan.TOKENS_PER_BATCH", {"cpu": 200, "cuda": 400})
    assert begun_on(path) == "cuda"
    done = record(olmoe, prompts_file, path, resume=True, **options)
    batches = len(plan_batches(_lengths(olmoe, tokenizer, prompts_file), None, "cuda"))
    assert f"went on after 1 of {batches} batches" in done.notes
    assert all(np.array_equal(a, b) for a, b in zip(rows(path)[:2], rows(whole)[:2], strict=True))


def _stopping(original, at):
    def batch(self, index, group):
        if index == at:
            raise KeyboardInterrupt
        return original(self, index, group)

    return batch


def _lengths(model, tokenizer, prompts_file):
    texts = [json.loads(line)["text"] for line in prompts_file.read_text().splitlines()]
    return [len(ids) for ids in tokenizer(texts)["input_ids"]]


@pytest.fixture
def own_folder(olmoe, tokenizer, tmp_path):
    folder = tmp_path / "model"
    olmoe.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def not_loaded(*args, **kwargs):
    raise AssertionError("the model was loaded")


def test_a_replaced_model_is_refused_before_it_is_loaded(own_folder, fine_tuned, prompts_file, tmp_path, monkeypatch):
    path = tmp_path / "t.duckdb"
    killed(monkeypatch, own_folder, prompts_file, path)
    fine_tuned.save_pretrained(own_folder)
    monkeypatch.setattr(probes.model, "load_model", not_loaded)
    with pytest.raises(ProbeError, match="interrupted run 1 is of another model"):
        record(own_folder, prompts_file, path, resume=True, batch_size=4, progress=False)


def test_complete_is_said_without_loading(own_folder, prompts_file, tmp_path, monkeypatch):
    path = tmp_path / "t.duckdb"
    record(own_folder, prompts_file, path, progress=False)
    monkeypatch.setattr(probes.model, "load_model", not_loaded)
    again = record(own_folder, prompts_file, path, resume=True, progress=False)
    assert again.run_id == 1
    assert again.notes == [COMPLETE]
    with pytest.raises(AssertionError, match="was loaded"):  # in another precision it may be another one
        record(own_folder, prompts_file, path, resume=True, progress=False, dtype="bfloat16")


def test_an_interrupted_run_in_the_way_is_said_without_loading(own_folder, prompts_file, tmp_path, monkeypatch):
    path = tmp_path / "t.duckdb"
    killed(monkeypatch, own_folder, prompts_file, path)
    monkeypatch.setattr(probes.model, "load_model", not_loaded)
    with pytest.raises(ProbeError, match="go on with it by --resume"):
        record(own_folder, prompts_file, path, progress=False)


def test_shards_of_another_model_are_not_gone_on_with(own_folder, fine_tuned, prompts_file, tmp_path, monkeypatch):
    path = tmp_path / "t.duckdb"
    killed(monkeypatch, own_folder, prompts_file, path, batches=1, shard="1/2")
    with pytest.raises(ProbeError, match="other prompts"):
        record(own_folder, prompts_file, path, resume=True, batch_size=4, progress=False, shard="2/2")
    fine_tuned.save_pretrained(own_folder)
    with pytest.raises(ProbeError, match="another model"):
        record(own_folder, prompts_file, path, resume=True, batch_size=4, progress=False, shard="1/2")


def as_first_version(path, model, tokenizer, prompts_file, batch_size):
    """Rewrites the provenance as the first version had it, by that version's own rules."""
    run = provenance(path)
    texts = [json.loads(line)["text"] for line in prompts_file.read_text().splitlines()]
    ids = [np.asarray(i, "<i4") for i in tokenizer(texts)["input_ids"]]
    batches = plan_batches([len(i) for i in ids], batch_size, "cpu")
    digest = hashlib.sha256(json.dumps([batches, run["options"]], sort_keys=True).encode())
    for one in ids:
        digest.update(np.int64(len(one)).tobytes() + one.tobytes())
    weights = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        flat = parameter.detach().numpy().reshape(-1)
        weights.update(f"{name}{tuple(parameter.shape)}".encode() + flat[:: max(1, flat.size // 64)][:64].tobytes())
    whole = tokenizer.backend_tokenizer.to_str() + str(tokenizer.chat_template)
    run.pop("identity")
    run |= {"fingerprint": digest.hexdigest()[:32], "weights_fingerprint": weights.hexdigest()[:32]}
    run["tokenizer_hash"] = hashlib.sha256(whole.encode()).hexdigest()[:32]
    with database.writing(path) as con:
        con.execute("UPDATE raw.runs SET provenance = ?", [json.dumps(run)])


def test_a_run_of_the_first_version_is_compared_as_far_as_that_goes(
    olmoe, fine_tuned, tokenizer, prompts_file, tmp_path, monkeypatch
):
    path, options = tmp_path / "t.duckdb", {"tokenizer": tokenizer, "progress": False, "batch_size": 4}
    killed(monkeypatch, olmoe, prompts_file, path, tokenizer=tokenizer)
    as_first_version(path, olmoe, tokenizer, prompts_file, 4)
    other = copy.deepcopy(olmoe)
    other.model.layers[0].mlp.gate.weight.data += 0.1
    with pytest.raises(ProbeError, match="other weights"):
        record(other, prompts_file, path, resume=True, **options)
    done = record(olmoe, prompts_file, path, resume=True, device="cpu", **options)
    assert done.run_id == 1
    assert any("looked at a sample of the weights" in note for note in done.notes)
    again = record(olmoe, prompts_file, path, resume=True, **options)
    assert COMPLETE in again.notes
    assert any("a sample of the weights" in note for note in again.notes)


def test_a_run_without_a_fingerprint_of_its_weights_is_not_finished(
    olmoe, tokenizer, prompts_file, tmp_path, monkeypatch
):
    path = tmp_path / "t.duckdb"
    killed(monkeypatch, olmoe, prompts_file, path, tokenizer=tokenizer)
    run = provenance(path)
    run["identity"] |= {"weights": None, "checkpoint": None}
    with database.writing(path) as con:
        con.execute("UPDATE raw.runs SET provenance = ?", [json.dumps(run)])
    with pytest.raises(ProbeError, match="weights cannot be compared"):
        record(olmoe, prompts_file, path, resume=True, tokenizer=tokenizer, batch_size=4, progress=False)


def test_the_weights_fingerprint_sees_one_bit_anywhere(olmoe):
    import torch

    known = weights_fingerprint(olmoe)
    assert weights_fingerprint(copy.deepcopy(olmoe)) == known
    generator = torch.Generator().manual_seed(0)
    for name, _ in olmoe.named_parameters():
        other = copy.deepcopy(olmoe)
        bits = other.get_parameter(name).data.view(-1).view(torch.int32)
        bits[int(torch.randint(len(bits), (1,), generator=generator))] ^= 1
        assert weights_fingerprint(other) != known, name
    swapped = copy.deepcopy(olmoe)
    gate = swapped.model.layers[0].mlp.gate.weight.data
    gate[[0, 1]] = gate[[1, 0]].clone()
    assert weights_fingerprint(swapped) != known


def test_the_sum_of_a_tensor_is_that_of_its_words():
    """Against Python's own whole numbers, modulo 2**64, and with a rest of 3 bytes."""
    import torch

    from probes.recording.fingerprints import CHUNK, FACTOR, OFFSET, _sums

    values = torch.randint(
        0, 256, (8 * (CHUNK + 5) + 3,), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    raw = bytes(values.tolist())
    words = [int.from_bytes(raw[i : i + 8], "little") for i in range(0, len(raw) - 3, 8)]
    factors = [((i * FACTOR + OFFSET) | 1) for i in range(CHUNK)]
    sums = [sum(w * f for w, f in zip(words[s : s + CHUNK], factors)) % 2**64 for s in (0, CHUNK)]  # noqa: B905
    assert _sums(values) == b"".join(s.to_bytes(8, "little") for s in sums) + raw[-3:]


def test_a_checkpoint_is_its_tensors_and_not_its_files(olmoe, fine_tuned, tmp_path):
    folders = {name: tmp_path / name for name in ("one", "many", "other")}
    olmoe.save_pretrained(folders["one"])
    olmoe.save_pretrained(folders["many"], max_shard_size="20KB")
    fine_tuned.save_pretrained(folders["other"])
    found = {name: checkpoint_fingerprint(folder) for name, folder in folders.items()}
    assert len(list(folders["many"].glob("*.safetensors"))) > 1
    assert found["one"] == found["many"] != found["other"]
    assert found["one"][1]


def test_of_a_large_checkpoint_pieces_are_read(olmoe, tmp_path, monkeypatch):
    import probes.recording.fingerprints as fingerprints

    other = copy.deepcopy(olmoe)
    other.lm_head.weight.data.view(-1)[0] += 1
    for name, model in (("a", olmoe), ("b", other)):
        model.save_pretrained(tmp_path / name)
    monkeypatch.setattr(fingerprints, "WHOLE", 0)
    monkeypatch.setattr(fingerprints, "SAMPLE_BYTES", 64)
    first, second = (checkpoint_fingerprint(tmp_path / name) for name in "ab")
    assert first != second
    assert not first[1]
    os.utime(tmp_path / "a" / "model.safetensors", (time.time(), 0))
    assert checkpoint_fingerprint(tmp_path / "a") == first


def test_a_trace_that_is_open_elsewhere_is_said_before_loading(own_folder, prompts_file, tmp_path, monkeypatch):
    path = tmp_path / "t.duckdb"
    record(own_folder, prompts_file, path, progress=False)
    monkeypatch.setattr(probes.model, "load_model", not_loaded)
    held = duckdb.connect(str(path), read_only=True)
    began = time.monotonic()
    with pytest.raises(TraceError, match="this process has it open"):
        record(own_folder, prompts_file, path, progress=False)
    assert time.monotonic() - began < 3
    held.close()


def test_offloaded_weights_are_the_same_weights():
    accelerate = pytest.importorskip("accelerate")
    model = tiny_model(families()["deepseek_v3"])
    known = weights_fingerprint(model), settings_fingerprint(model)
    offloaded = accelerate.cpu_offload(model, execution_device="cpu")
    assert next(offloaded.parameters()).device.type == "meta"
    assert (weights_fingerprint(offloaded), settings_fingerprint(offloaded)) == known


@pytest.mark.filterwarnings("ignore")  # of peft and transformers about each other
def test_adapters_make_another_model(olmoe):
    peft = pytest.importorskip("peft")
    wrapped = peft.get_peft_model(copy.deepcopy(olmoe), peft.LoraConfig(r=2, target_modules=["q_proj"]))
    known = settings_fingerprint(wrapped)
    assert weights_fingerprint(wrapped) != weights_fingerprint(olmoe)
    with wrapped.disable_adapter():
        assert settings_fingerprint(wrapped) != known
    assert settings_fingerprint(wrapped) == known
