"""What people really have: quantised, offloaded, adapted, with another head. Recorded rightly, or refused in one line.

Each recorded choice is compared with what the experts received, seen by plain hooks of torch, when the same text was
fed alone.
"""

import json
from dataclasses import replace

import duckdb
import numpy as np
import pytest
import torch
from seen import received, same
from torch import nn

import probes
from probes.capture import Want, capture
from probes.errors import ProbeError
from probes.families import family
from probes.families.tiny import tiny_model
from probes.recording.fingerprints import weights_fingerprint

TEXTS = ["the quick brown fox", "SELECT name", "a"]
pytestmark = pytest.mark.filterwarnings("ignore")


def build(name="qwen3_moe", **tiny):
    """A tiny model with the test tokenizer's vocabulary."""
    settings = {**family(name).tiny, "vocab_size": 400, "max_position_embeddings": 128, **tiny}
    return tiny_model(replace(family(name), tiny=settings))


@pytest.fixture
def prompts(tmp_path):
    folder = tmp_path / "prompts"
    folder.mkdir()
    for number, text in enumerate(TEXTS):
        (folder / f"{number}.txt").write_text(text)
    return folder


@torch.no_grad()
def alone(model, call, tokenizer, text, new):
    """(layer -> ids [T, k], token ids) of one text, in the order of its tokens: what its experts received."""
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    if new:
        ids = model.generate(input_ids=ids, max_new_tokens=new, do_sample=False, eos_token_id=399, pad_token_id=0)[
            :, :-1
        ]
    with received(model) as calls:
        call(ids)
    return {layer: some[-1][0][-ids.shape[1] :] for layer, some in calls.items()}, ids[0]


def check(out, model, tokenizer, call=None, new=0, texts=TEXTS):
    """Every stored row is what the experts received."""
    con = duckdb.connect(str(out), read_only=True)
    for sequence, text in enumerate(texts):
        expected, ids = alone(model, call or model, tokenizer, text, new)
        tokens = con.execute(
            "SELECT token_id FROM tokens WHERE sequence_id = ? ORDER BY position", [sequence]
        ).fetchall()
        assert [token for (token,) in tokens][: len(ids)] == ids.tolist()
        for layer, wanted in expected.items():
            rows = con.execute(
                "SELECT experts FROM routing WHERE sequence_id = ? AND layer = ? ORDER BY position", [sequence, layer]
            ).fetchall()
            assert [sorted(row) for (row,) in rows[: len(ids)]] == np.sort(wanted, 1).tolist()
            assert len(rows) == len(ids) + bool(new)
    return con


def record(model, prompts, tmp_path, tokenizer, **settings):
    out = tmp_path / "t.duckdb"
    return out, probes.record(model, prompts, out, tokenizer=tokenizer, progress=False, **settings)


class TestTorchao:
    @pytest.mark.parametrize("new", [0, 3])
    @pytest.mark.parametrize("config", ["Int8WeightOnlyConfig", "Int8DynamicActivationInt8WeightConfig"])
    def test_int8(self, prompts, tmp_path, tokenizer, config, new):
        quantization = pytest.importorskip("torchao.quantization")
        model = build()
        plain = weights_fingerprint(model)
        quantization.quantize_(model, getattr(quantization, config)())
        out, _recorded = record(model, prompts, tmp_path, tokenizer, max_new_tokens=new, batch_size=1)
        check(out, model, tokenizer, new=new)
        (stored,) = duckdb.connect(str(out), read_only=True).execute("SELECT provenance FROM runs").fetchone()
        fingerprint = json.loads(stored)["weights_fingerprint"]
        assert fingerprint
        assert fingerprint != plain

    def test_another_quantised_weight_has_another_fingerprint(self):
        quantization = pytest.importorskip("torchao.quantization")
        prints = set()
        for change in (0.0, 0.5):
            model = build()
            with torch.no_grad():
                model.model.layers[0].self_attn.q_proj.weight[0, 0] += change
            quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
            prints.add(weights_fingerprint(model))
        assert len(prints) == 2


class TestOffloaded:
    @pytest.mark.parametrize("new", [0, 3])
    @pytest.mark.parametrize("where", ["cpu", "disk"])
    @pytest.mark.parametrize("name", ["qwen3_moe", "deepseek_v3"])
    def test_whole_model(self, name, where, prompts, tmp_path, tokenizer, new):
        accelerate = pytest.importorskip("accelerate")
        model = build(name)
        if where == "cpu":
            accelerate.cpu_offload(model, execution_device="cpu")
        else:
            accelerate.disk_offload(model, str(tmp_path / "weights"), execution_device="cpu")
        assert model.device.type == "meta"
        out, recorded = record(model, prompts, tmp_path, tokenizer, max_new_tokens=new)
        check(out, build(name), tokenizer, new=new)
        assert not recorded.left_out

    def test_steered_and_evaluated(self, tmp_path, tokenizer):
        accelerate = pytest.importorskip("accelerate")
        tasks = tmp_path / "t.jsonl"
        tasks.write_text('{"text": "12+34=", "target": "46"}\n{"text": "the quick brown fox"}\n')
        rows = []
        for offloaded in (False, True):
            model = build()
            if offloaded:
                accelerate.cpu_offload(model, execution_device="cpu")
            found = probes.evaluate(model, [tasks], ["ban:layer=1,expert=3"], tokenizer=tokenizer, control_seeds=1)
            rows.append([(row.task, row.arm, row.measure, round(row.value, 4), row.acted) for row in found.rows])
        assert rows[0] == rows[1]


class TestOtherHeads:
    @pytest.mark.parametrize("head", ["SequenceClassification", "TokenClassification"])
    def test_classifiers_and_reward_models(self, head, prompts, tmp_path, tokenizer):
        import transformers

        torch.manual_seed(0)
        model = getattr(transformers, f"AutoModelFor{head}").from_config(build().config).eval()
        out, recorded = record(
            model, prompts, tmp_path, tokenizer
        )  # a padded batch, and no padding token in its config
        con = check(out, model, tokenizer)
        assert con.execute("SELECT count(*), count(logprob), count(predicted_id) FROM tokens").fetchone()[1] == 0
        assert recorded.notes == [f"{type(model).__name__} has no language model's head: predictions are missing"]

    def test_without_a_head(self, prompts, tmp_path, tokenizer):
        model = build()
        out, recorded = record(model.model, prompts, tmp_path, tokenizer)
        check(out, model, tokenizer)
        assert recorded.notes == ["Qwen3MoeModel has no language model's head: predictions are missing"]

    def test_a_value_head(self, prompts, tmp_path, tokenizer):
        model = build()
        wrapper = ValueHead(model)
        out, _ = record(wrapper, prompts, tmp_path, tokenizer, max_new_tokens=3)
        con = check(out, model, tokenizer, new=3)
        assert con.execute("SELECT count(*), count(logprob) FROM tokens WHERE position > 0").fetchone()[1] > 10
        assert "Qwen3MoeForCausalLM" in con.execute("SELECT provenance FROM runs").fetchone()[0]

    def test_text_is_not_asked_of_a_classifier(self, prompts, tmp_path, tokenizer):
        import transformers

        model = transformers.AutoModelForSequenceClassification.from_config(build().config).eval()
        with pytest.raises(ProbeError, match="Qwen3MoeForSequenceClassification does not generate text; leave"):
            record(model, prompts, tmp_path, tokenizer, max_new_tokens=2)
        assert not (tmp_path / "t.duckdb").exists()
        tasks = tmp_path / "t.jsonl"
        tasks.write_text('{"text": "the quick brown fox"}\n')
        with pytest.raises(ProbeError, match="gives no token a probability"):
            probes.evaluate(model, [tasks], tokenizer=tokenizer)

    def test_predictions_are_those_of_the_model_inside(self, prompts, tmp_path, tokenizer):
        """log p of each token, by hand from the inner model's logits."""
        model = build()
        out, _ = record(ValueHead(model), prompts, tmp_path, tokenizer)
        con = duckdb.connect(str(out), read_only=True)
        for sequence, text in enumerate(TEXTS[:2]):
            ids = torch.tensor([tokenizer(text)["input_ids"]])
            with torch.no_grad():
                log_p = model(ids).logits.log_softmax(-1)[0, :-1].gather(-1, ids[0, 1:, None])[:, 0]
            stored = con.execute(
                "SELECT logprob FROM tokens WHERE sequence_id = ? ORDER BY position", [sequence]
            ).fetchall()
            np.testing.assert_allclose([p for (p,) in stored][1:], log_p.numpy(), rtol=1e-4)


class ValueHead(nn.Module):
    """As trl's: a tuple of logits, loss and values; no `.config`, no `.device`."""

    def __init__(self, model):
        super().__init__()
        self.pretrained_model = model
        self.v_head = nn.Linear(32, 1)

    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        output = self.pretrained_model(
            input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True, **kwargs
        )
        return output.logits, None, self.v_head(output.hidden_states[-1]).squeeze(-1)

    def generate(self, *args, **kwargs):
        return self.pretrained_model.generate(*args, **kwargs)


class Plain:
    """No torch module; its own names for its arguments."""

    def __init__(self, model):
        self.inner = model

    def generate(self, ids, **kwargs):
        return self.inner.generate(ids, **kwargs)


class OneArgument(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.inner = model

    def forward(self, ids):
        return self.inner(ids)


@pytest.mark.parametrize("new", [0, 3])
@pytest.mark.parametrize("wrapper", [ValueHead, Plain, OneArgument, nn.DataParallel])
def test_wrappers_without_config_and_device(wrapper, prompts, tmp_path, tokenizer, new):
    model = build()
    out, _ = record(wrapper(model), prompts, tmp_path, tokenizer, max_new_tokens=new, name="wrapped")
    check(out, model, tokenizer, new=new)


class TestPromptLearning:
    """PEFT puts virtual tokens before the text: in the pass (prompt tuning) or in the cache (prefix tuning)."""

    VIRTUAL = 3

    def adapted(self, kind):
        peft = pytest.importorskip("peft")
        model = build()
        config = getattr(peft, kind)(task_type="CAUSAL_LM", num_virtual_tokens=self.VIRTUAL)
        torch.manual_seed(0)
        return peft.get_peft_model(model, config).eval(), model

    @pytest.mark.parametrize("new", [0, 3])
    @pytest.mark.parametrize("kind", ["PromptTuningConfig", "PrefixTuningConfig", "PromptEncoderConfig"])
    def test_the_texts_own_tokens_are_recorded(self, kind, prompts, tmp_path, tokenizer, new):
        wrapped, _ = self.adapted(kind)
        out, _ = record(wrapped, prompts, tmp_path, tokenizer, max_new_tokens=new, batch_size=1)
        con = check(out, wrapped, tokenizer, call=lambda ids: wrapped(input_ids=ids), new=new)
        read = sum(len(tokenizer(text)["input_ids"]) for text in TEXTS)
        phases = dict(con.execute("SELECT phase, count(*) FROM tokens GROUP BY 1").fetchall())
        assert phases == ({"prefill": read, "decode": 3 * new} if new else {"prefill": read})

    @pytest.mark.parametrize("kind", ["PromptTuningConfig", "PrefixTuningConfig"])
    @torch.no_grad()
    def test_passes(self, kind):
        wrapped, _model = self.adapted(kind)
        inside = self.VIRTUAL if kind == "PromptTuningConfig" else 0
        ids, mask = torch.tensor([[0, 0, 5], [6, 7, 8]]), torch.tensor([[0, 0, 1], [1, 1, 1]])
        with received(wrapped) as calls, capture(wrapped, Want(norms=False, moments=True)) as recorder:
            wrapped.generate(input_ids=ids, attention_mask=mask, max_new_tokens=2, min_new_tokens=2, do_sample=False)
            first, then = recorder.take()
        same([first, then], calls)
        assert first.length == 3 + inside
        assert first.mask.tolist() == [[False] * inside + row for row in mask.bool().tolist()]
        assert first.position.tolist() == [[-1] * inside + row for row in ([-1, -1, 0], [0, 1, 2])]
        assert then.position.tolist() == [[1], [3]]
        assert [first.phase, then.phase] == ["prefill", "decode"]
        assert int(recorder.moments[0][0].sum()) == (4 + 2) * 2

    @torch.no_grad()
    def test_scopes_count_the_texts_own_tokens(self):
        wrapped, _ = self.adapted("PromptTuningConfig")
        with probes.steer(wrapped, ["force:layer=0,expert=5,positions=1-1"]), received(wrapped) as calls:
            wrapped(input_ids=torch.tensor([[5, 6, 7]]))
        assert (calls[0][0][0] == 5).any(1)[self.VIRTUAL + 1]
        with probes.steer(wrapped, ["force:layer=0,expert=5,tokens=6"]), received(wrapped) as calls:
            wrapped(input_ids=torch.tensor([[5, 6, 7]]))
        assert (calls[0][0][0] == 5).any(1)[self.VIRTUAL + 1]
        assert not (calls[0][0][0] == 5).any(1).all()

    @torch.no_grad()
    def test_switched_off_and_past_by(self):
        wrapped, model = self.adapted("PromptTuningConfig")
        ids = torch.tensor([[5, 6, 7]])
        with capture(wrapped, Want(norms=False)) as recorder:
            model(ids)
            with wrapped.disable_adapter():
                wrapped(input_ids=ids)
            forwards = recorder.take()
        assert [f.position.tolist() for f in forwards] == [[[0, 1, 2]]] * 2

    def test_evaluation_reads_the_texts_own_logits(self, tmp_path, tokenizer):
        """NLL by hand: the wrapper's logits, its virtual tokens cut off."""
        wrapped, _ = self.adapted("PromptTuningConfig")
        ids = torch.tensor([tokenizer(TEXTS[0])["input_ids"]])
        with torch.no_grad():
            log_p = wrapped(input_ids=ids).logits[:, self.VIRTUAL :].log_softmax(-1)
        expected = -log_p[0, :-1].gather(-1, ids[0, 1:, None]).double().sum()
        tasks = tmp_path / "t.jsonl"
        tasks.write_text(f'{{"text": "{TEXTS[0]}"}}\n')
        found = probes.evaluate(wrapped, [tasks], tokenizer=tokenizer)
        assert found.items[0]["nll"] == pytest.approx(float(expected), rel=1e-5)

    def test_strategies_refuse_virtual_tokens(self):
        from probes.interventions.decoding import decode

        wrapped, _ = self.adapted("PromptTuningConfig")
        with pytest.raises(ProbeError, match="3 virtual tokens stand before the text"):
            decode(wrapped, torch.tensor([[5, 6, 7]]), "ensemble:n=2", 2)


def test_tokens_that_a_wrapper_puts_before_the_text_are_refused(prompts, tmp_path, tokenizer):
    """Nobody says which of the rows are the text's: nothing is written."""
    model = build()

    class Prefixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, input_ids, attention_mask=None, use_cache=None):
            embeds = model.model.embed_tokens(input_ids)
            return model(inputs_embeds=torch.cat([embeds[:, :1], embeds], 1))

    with pytest.raises(ProbeError, match="Prefixed was given 2 tokens, and its routers saw 3"):
        record(Prefixed(), prompts, tmp_path, tokenizer, batch_size=1, limit=1)
    assert not (tmp_path / "t.duckdb").exists()


def test_a_wrapper_that_runs_another_model_is_refused(prompts, tmp_path, tokenizer):
    import copy

    model = build()

    class Copying(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, input_ids, attention_mask=None, use_cache=None):
            return copy.copy(Copying.other)(input_ids)

    Copying.other = build()
    with pytest.raises(ProbeError, match="ran none of its routers where they could be seen"):
        record(Copying(), prompts, tmp_path, tokenizer)
    assert not (tmp_path / "t.duckdb").exists()
    tasks = tmp_path / "t.jsonl"
    tasks.write_text('{"text": "the quick brown fox"}\n')
    with pytest.raises(ProbeError, match=r"ban.*ran past its interventions.*nothing is reported"):
        probes.evaluate(Copying(), [tasks], ["ban:layer=1,expert=3"], tokenizer=tokenizer, control_seeds=0)


@pytest.mark.parametrize(
    ("spec", "acted"),
    [("ban:layer=1,expert=3", True), ("ban:layer=1,expert=3,phase=decode", False), ("temperature:tau=1", None),
     ("ban:layer=1,expert=3,positions=1-1", True), ("ban:layer=1,expert=3,positions=90-99", False), (None, None)],
)  # fmt: skip
def test_a_recording_says_whether_its_interventions_acted(spec, acted, prompts, tmp_path, tokenizer):
    """An intervention that met no token is not one without effect."""
    specs = {} if spec is None else {"interventions": [spec]}
    out, recorded = record(ValueHead(build()), prompts, tmp_path, tokenizer, **specs)
    (stored,) = duckdb.connect(str(out), read_only=True).execute("SELECT provenance FROM runs").fetchone()
    assert json.loads(stored).get("acted") is acted
    said = "the interventions acted on no token: none was in their scope" in recorded.notes
    assert said == (acted is False)


def test_an_evaluation_says_which_arm_never_acted(tmp_path, tokenizer):
    from probes.evaluation.render import render

    tasks = tmp_path / "sums.jsonl"
    tasks.write_text('{"text": "12+34=", "target": "46"}\n{"text": "1+3=", "target": "4"}\n')
    arms = ["ban:layer=1,expert=3", "ban:layer=1,expert=3,positions=90-99", "temperature:tau=1"]
    work = tmp_path / "work.jsonl"
    for _ in range(2):  # anew, and from what the work file kept
        found = probes.evaluate(
            build(), [tasks], arms, tokenizer=tokenizer, control_seeds=0, max_new_tokens=2, resume=work
        )
        acted = [found.row("sums", arm, "exact_match").acted for arm in found.arms]
        assert acted == [None, True, False, None]
        note = f"{list(found.arms)[2]}: acted on no token of sums; its numbers are the baseline's"
        assert note in found.notes
        assert note in found.as_dict()["notes"]
        assert sum(line.endswith("; never acted") for line in render(found).splitlines()) >= 2
