"""Recording end to end: what is in the trace is what the model did, however it was fed."""

import numpy as np
import pytest
import torch

from probes.errors import ProbeError, UsageError
from probes.recording.record import record
from store.errors import TraceError
from store.trace import open_trace

LOGITS = 3e-6  # padding and batches change the last bits of float32 sums


def everything(path, run_id=None, columns=("experts", "weights", "logits", "output_norm", "entropy", "margin")):
    """All arrays of a run in (sequence, position) order."""
    chunks = list(open_trace(path).chunks(run_id, columns=columns))
    return {key: np.concatenate([chunk[key] for chunk in chunks]) for key in (*columns, "sequence_id", "position")}


@pytest.fixture(scope="module")
def trace(olmoe, tokenizer, prompts_file, tmp_path_factory):
    path = tmp_path_factory.mktemp("traces") / "t.duckdb"
    done = record(olmoe, prompts_file, path, tokenizer=tokenizer)
    assert done.left_out == []
    return path


def test_the_recorded_routing_is_the_models_own(trace, olmoe, tokenizer):
    """Against transformers' own router logits, one unpadded sequence at a time."""
    found = everything(trace)
    rows = open_trace(trace).sql("SELECT sequence_id, text FROM sequences ORDER BY sequence_id LIMIT 5")
    for sequence_id, text in rows.itertuples(index=False):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            own = olmoe(ids, output_router_logits=True).router_logits
        at = found["sequence_id"] == sequence_id
        for layer, logits in enumerate(own):
            weights, experts = logits.softmax(-1).topk(2)
            assert found["logits"][at, layer] == pytest.approx(logits.numpy(), abs=LOGITS)
            assert (found["experts"][at, layer] == experts.numpy()).all()
            assert found["weights"][at, layer] == pytest.approx(weights.numpy(), abs=LOGITS)


def test_entropy_and_margin_belong_to_the_logits(trace):
    found = everything(trace)
    p = torch.from_numpy(found["logits"]).double().softmax(-1)
    assert found["entropy"] == pytest.approx(-(p * p.log()).sum(-1).numpy(), abs=1e-5)
    top = p.sort(-1, descending=True).values
    assert found["margin"] == pytest.approx((top[..., 1] - top[..., 2]).numpy(), abs=1e-5)


def test_logprob_and_prediction_belong_to_the_right_token(trace, olmoe, tokenizer):
    text, ids = _first_sequence(trace, tokenizer)
    with torch.no_grad():
        logits = olmoe(torch.tensor([ids])).logits[0].double()
    rows = open_trace(trace).sql(
        "SELECT token_id, token, logprob, predicted_id FROM tokens WHERE sequence_id = 0 ORDER BY position"
    )
    assert rows.token_id.tolist() == ids
    assert "".join(rows.token) == text
    expected = logits.log_softmax(-1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]
    assert np.isnan(rows.logprob[0])
    assert rows.logprob[1:].to_numpy(float) == pytest.approx(expected.numpy(), abs=1e-4)
    assert rows.predicted_id.tolist() == logits.argmax(-1).tolist()


def _first_sequence(trace, tokenizer):
    text = open_trace(trace).sql("SELECT text FROM sequences WHERE sequence_id = 0").text[0]
    return text, tokenizer(text)["input_ids"]


@pytest.mark.parametrize("batch_size", [1, 3, 40])
def test_batches_do_not_change_what_is_recorded(trace, olmoe, tokenizer, prompts_file, tmp_path, batch_size):
    other = tmp_path / "t.duckdb"
    record(olmoe, prompts_file, other, tokenizer=tokenizer, batch_size=batch_size)
    one, two = everything(trace), everything(other)
    assert (one["experts"] == two["experts"]).all()
    assert one["logits"] == pytest.approx(two["logits"], abs=LOGITS)
    assert (one["position"] == two["position"]).all()


def test_generation_tells_how_far_it_is_within_a_batch(olmoe, tokenizer, prompts_file, tmp_path, monkeypatch):
    """Prompts and what is generated count; the bar ends at the whole also where texts end before."""
    import tqdm

    seen = []

    class Bar(tqdm.tqdm):
        def update(self, n=1):
            seen.append(n)
            return super().update(n)

        def close(self):
            ends.append((self.n, self.total))
            super().close()

    ends = []
    monkeypatch.setattr(tqdm, "tqdm", Bar)
    settings = {"tokenizer": tokenizer, "limit": 6, "batch_size": 3, "max_new_tokens": 5, "progress": True}
    done = record(olmoe, prompts_file, tmp_path / "t.duckdb", **settings)
    assert 3 in seen  # a step of a batch of three
    assert len(seen) > 2  # more often than once a batch
    assert ends[-1][0] == ends[-1][1] == sum(seen) >= done.tokens


def test_generation_records_what_one_forward_over_the_whole_text_would(olmoe, tokenizer, prompts_file, tmp_path):
    path = tmp_path / "t.duckdb"
    record(olmoe, prompts_file, path, tokenizer=tokenizer, limit=5, max_new_tokens=6)
    found = everything(path, columns=("experts", "logits"))
    tokens = open_trace(path).sql("SELECT * FROM tokens ORDER BY sequence_id, position")
    assert set(tokens.phase) == {"prefill", "decode"}
    for sequence_id, rows in tokens.groupby("sequence_id"):
        ids = torch.tensor([rows.token_id.tolist()])
        with torch.no_grad():
            output = olmoe(ids, output_router_logits=True)
        at = found["sequence_id"] == sequence_id
        assert (found["experts"][at][-1] == -1).all(), "the last token was never fed"
        for layer, logits in enumerate(output.router_logits):
            assert found["logits"][at, layer][:-1] == pytest.approx(logits[:-1].numpy(), abs=1e-5)
        expected = output.logits[0].log_softmax(-1)[torch.arange(ids.shape[1] - 1), ids[0, 1:]]
        # The last token's own probability is known before it would be fed, but nothing is recorded without a pass.
        assert rows.logprob.to_numpy(float)[1:-1] == pytest.approx(expected[:-1].numpy(), abs=1e-4)
    reasons = open_trace(path).sql("SELECT DISTINCT missing_reason FROM routing WHERE missing_reason IS NOT NULL")
    assert reasons.missing_reason.tolist() == ["last generated token: never fed to the model"]


def test_what_is_not_asked_for_is_not_kept(olmoe, tokenizer, prompts_file, tmp_path):
    path = tmp_path / "t.duckdb"
    record(olmoe, prompts_file, path, tokenizer=tokenizer, limit=4, capture="weights", layers=(0, 2))
    kept = open_trace(path).sql("SELECT count(weights) AS weights, count(output_norms) AS norms FROM routing")
    assert kept.weights[0] > 0
    assert kept.norms[0] == 0
    assert open_trace(path).sql("SELECT count(*) AS n FROM router_logits").n[0] == 0
    assert open_trace(path).layers().layer.tolist() == [0, 2]


def test_logit_rate_keeps_a_share_and_the_entropy_of_all(olmoe, tokenizer, prompts_file, tmp_path):
    path = tmp_path / "t.duckdb"
    record(olmoe, prompts_file, path, tokenizer=tokenizer, logit_rate=0.2)
    found = everything(path, columns=("experts", "logits", "entropy"))
    kept = ~np.isnan(found["logits"][:, 0, 0])
    assert 0.1 < kept.mean() < 0.3
    assert not np.isnan(found["entropy"]).any()


def test_moments_and_sampled_outputs_agree(olmoe, tokenizer, prompts_file, tmp_path):
    path = tmp_path / "t.duckdb"
    record(olmoe, prompts_file, path, tokenizer=tokenizer, limit=8, capture="norms,moments,outputs", output_rate=1.0)
    trace = open_trace(path)
    vectors = trace.sql("SELECT layer, expert, vector FROM output_vectors")
    stored = trace.sql("SELECT * FROM expert_outputs WHERE n_tokens > 1").set_index(["layer", "expert"])
    for key, rows in vectors.groupby(["layer", "expert"]):
        if len(rows) > 1:
            values = np.stack(rows.vector.tolist()).astype(float)
            assert stored.loc[key].n_tokens == len(values)
            assert np.asarray(stored.loc[key]["mean"]) == pytest.approx(values.mean(0), abs=1e-5)
            assert np.asarray(stored.loc[key].m2) / len(values) == pytest.approx(values.var(0), abs=1e-5)


def test_shards_together_are_the_whole(trace, olmoe, tokenizer, prompts_file, tmp_path):
    parts = []
    for shard in ("1/2", "2/2"):
        path = tmp_path / f"{shard[0]}.duckdb"
        record(olmoe, prompts_file, path, tokenizer=tokenizer, shard=shard)
        parts.append(everything(path))
    ids = np.concatenate([part["sequence_id"] for part in parts])
    whole = everything(trace)
    assert sorted(ids.tolist()) == sorted(whole["sequence_id"].tolist())


def test_an_interrupted_run_is_resumed_with_the_same_rows(trace, olmoe, tokenizer, prompts_file, tmp_path, monkeypatch):
    from probes.recording.session import Feeder

    path, original, calls = tmp_path / "t.duckdb", Feeder.batch, []

    def stops_after_three(self, index, group):
        calls.append(index)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(self, index, group)

    options = {"tokenizer": tokenizer, "batch_size": 4}
    monkeypatch.setattr(Feeder, "batch", stops_after_three)
    with pytest.raises(KeyboardInterrupt):
        record(olmoe, prompts_file, path, **options)
    assert open_trace(path).runs().status.tolist() == ["interrupted"]
    with pytest.raises(ProbeError, match="--resume"):
        record(olmoe, prompts_file, path, **options)
    with pytest.raises(ProbeError, match="other prompts, options or batches"):
        record(olmoe, prompts_file, path, resume=True, **{**options, "batch_size": 5})
    done = record(olmoe, prompts_file, path, resume=True, **options)
    assert calls[4:] == list(range(3, 10))
    assert done.notes == ["went on after 3 of 10 batches"]
    again = record(olmoe, prompts_file, path, resume=True, **options)
    assert again.notes == ["this run was complete already"]
    record(olmoe, prompts_file, tmp_path / "u.duckdb", **options)
    one, two = everything(path), everything(tmp_path / "u.duckdb")
    assert all(np.array_equal(one[key], two[key], equal_nan=True) for key in one)


def test_hooks_are_gone_afterwards(olmoe, tokenizer, prompts_file, tmp_path):
    before = [(dict(m._forward_hooks), dict(m._forward_pre_hooks)) for m in olmoe.modules()]
    record(olmoe, prompts_file, tmp_path / "t.duckdb", tokenizer=tokenizer, limit=4)
    assert [(dict(m._forward_hooks), dict(m._forward_pre_hooks)) for m in olmoe.modules()] == before


def test_a_trace_of_another_model_is_refused(trace, olmoe, tokenizer, prompts_file, olmoe_folder):
    with pytest.raises(TraceError, match="another model"):
        record(olmoe_folder, prompts_file, trace)


def test_prompts_longer_than_the_context_are_left_out_by_name(olmoe, tokenizer, tmp_path):
    file = tmp_path / "p.jsonl"
    file.write_text('{"text": "' + "word " * 200 + '"}\n{"text": "short"}\n')
    done = record(olmoe, file, tmp_path / "t.duckdb", tokenizer=tokenizer)
    assert done.sequences == 1
    assert "do not fit the model's context of 128" in str(done.left_out[0])
    assert str(done.left_out[0]).startswith(f"{file}:1")
    cut = record(olmoe, file, tmp_path / "u.duckdb", tokenizer=tokenizer, max_length=100)
    assert (cut.sequences, cut.left_out) == (2, [])


def test_messages_need_a_chat_template(olmoe, tokenizer, tmp_path):
    file = tmp_path / "p.jsonl"
    file.write_text('{"messages": [{"role": "user", "content": "hi"}]}\n')
    with pytest.raises(ProbeError, match="no chat template"):
        record(olmoe, file, tmp_path / "t.duckdb", tokenizer=tokenizer)
    assert not (tmp_path / "t.duckdb").exists()


def test_messages_go_through_the_template_with_exact_ids(olmoe, tokenizer, tmp_path):
    import copy

    chatty = copy.deepcopy(tokenizer)
    chatty.chat_template = "<s>{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}"
    file = tmp_path / "p.jsonl"
    file.write_text('{"messages": [{"role": "user", "content": "hi"}]}\n')
    record(olmoe, file, tmp_path / "t.duckdb", tokenizer=chatty)
    ids = open_trace(tmp_path / "t.duckdb").sql("SELECT token_id FROM tokens ORDER BY position").token_id.tolist()
    assert ids == chatty.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=True)["input_ids"]


@pytest.mark.parametrize(
    "wrong",
    [
        *[{"batch_size": 0}, {"logit_rate": 0}, {"logit_rate": 2}, {"dtype": "int8"}],
        *[{"capture": "logit"}, {"capture": 5}, {"capture": [5]}, {"capture": b"logits"}],
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(olmoe, tokenizer, prompts_file, tmp_path, wrong):
    with pytest.raises(UsageError):
        record(olmoe, prompts_file, tmp_path / "t.duckdb", tokenizer=tokenizer, **wrong)
    assert not (tmp_path / "t.duckdb").exists()
