"""Decoding: the strategies' laws, by brute force and bit for bit."""

import pytest
import torch

import probes
from probes.capture import Want, capture
from probes.errors import ProbeError, UsageError
from probes.families import family
from probes.families.tiny import tiny_model
from probes.interventions import parse
from probes.interventions.decoding import Strategy, decode
from probes.steering import active, steer

PADDED = {
    "input_ids": torch.tensor([[0, 0, 5, 9, 17, 33], [41, 7, 7, 19, 23, 4], [0, 0, 0, 0, 8, 50]]),
    "attention_mask": torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1]]),
}
NEUTRAL = ["ensemble:n=1", "contrast:beta=0", "rewire:steps=0"]


def biased(options, batch):
    rows = [row for row in range(3 * batch) if row % 3]
    return (parse({"name": "bias", "expert": 1, "delta": 3.0, "last": 1, "sequences": rows}),)


# A strategy whose copies differ by something that is not random, so that two ways to compute it must agree.
BIASED = Strategy(
    name="biased", title="", does="", formula="", source="", cost="", copies=lambda options: 3, lends=True,
    specs=biased, combine=lambda options, z: z.log_softmax(-1).mean(1),
)  # fmt: skip


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = tiny_model(family("olmoe"))
    made.generation_config.eos_token_id = None
    made.config.eos_token_id = None
    return made


def hook_count(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def alone(row):
    keep = PADDED["attention_mask"][row].bool()
    return {"input_ids": PADDED["input_ids"][row][keep][None]}


class TestPlain:
    def test_it_is_what_generate_gives(self, model):
        given = model.generate(**PADDED, max_new_tokens=6, do_sample=False, pad_token_id=0)[:, 6:]
        out = decode(model, PADDED, "plain", 6)
        assert torch.equal(out.ids, given)
        assert (out.forwards, out.rows) == (6, 3 * 6 + 5 * 3)

    @pytest.mark.parametrize("name", NEUTRAL)
    def test_what_is_neutral_is_plain_to_the_last_bit(self, model, name):
        plain, out = (decode(model, PADDED, s, 5, keep_scores=True) for s in ("plain", name))
        assert torch.equal(plain.scores, out.scores)
        assert torch.equal(plain.logprobs, out.logprobs)
        assert plain.forwards == out.forwards

    def test_no_new_tokens_is_nothing(self, model):
        out = decode(model, PADDED, "ensemble", 0)
        assert out.ids.shape == (3, 0)
        assert out.forwards == 0


class TestEnsemble:
    def test_it_is_the_mean_of_the_noisy_passes_computed_one_by_one(self, model):
        """What each copy chose is read off; each is then run alone, without cache or noise, forced to that choice."""
        prompt = alone(1)
        with capture(model, Want(norms=False)) as recorder:
            out = decode(model, prompt, "ensemble:n=4,tau=3,spare_ends=no", 3, keep_scores=True)
        steps = [f for f in recorder.take() if f.batch == 4]
        assert len(steps) == 3
        for step, forward in enumerate(steps):
            ids = torch.cat([prompt["input_ids"], out.ids[:, :step]], 1)
            rows = [
                self._forced(model, ids, {la: r.experts[copy] for la, r in forward.routing.items()})
                for copy in range(4)
            ]
            mean = torch.stack(rows).softmax(-1).mean(0).log()
            torch.testing.assert_close(out.scores[0, step].log_softmax(-1), mean, atol=1e-4, rtol=1e-4)
        assert any(len({tuple(r.experts[c]) for c in range(4)}) > 1 for r in steps[0].routing.values())

    @staticmethod
    def _forced(model, ids, chosen):
        specs = [
            {"name": "force", "layer": layer, "experts": experts.tolist(), "last": 1}
            for layer, experts in chosen.items()
        ]
        with torch.no_grad(), steer(model, specs):
            return model(input_ids=ids, use_cache=False).logits[0, -1]

    def test_the_first_copy_is_clean_and_the_cache_is_its(self, model):
        """With noise that would be felt in every later token, the clean copy stays what plain decoding computes."""
        with capture(model, Want(norms=False)) as recorder:
            out = decode(model, alone(1), "ensemble:n=3,tau=5,spare_ends=no", 5)
        clean = {la: [f.routing[la].experts[0] for f in recorder.take() if f.batch == 3] for la in (0,)}
        ids = torch.cat([alone(1)["input_ids"], out.ids], 1)
        with torch.no_grad(), capture(model, Want(norms=False)) as recorder:
            model(input_ids=ids)
        whole = recorder.take()[0].routing[0].experts
        for step, chosen in enumerate(clean[0]):
            assert set(chosen) == set(whole[5 + step])

    def test_the_prompt_is_computed_once(self, model):
        out = decode(model, PADDED, "ensemble:n=4", 3)
        assert (out.forwards, out.rows) == (4, 3 * 5 + 3 * 4 * 3)

    def test_without_noise_it_is_plain_up_to_rounding(self, model):
        plain, out = (decode(model, PADDED, s, 4, keep_scores=True) for s in ("plain", "ensemble:n=3,tau=0"))
        torch.testing.assert_close(out.scores, plain.scores.log_softmax(-1), atol=1e-4, rtol=1e-4)

    def test_its_seed_decides(self, model):
        a, b, c = (decode(model, PADDED, f"ensemble:n=3,tau=3,seed={s}", 4, keep_scores=True) for s in (1, 1, 2))
        assert torch.equal(a.scores, b.scores)
        assert not torch.equal(a.scores, c.scores)


class TestContrast:
    @pytest.mark.parametrize("ranks", ["2", "2+3", "4"])
    def test_it_is_the_formula_over_two_plain_runs(self, model, ranks):
        beta, alpha, prompt = 0.7, 0.2, alone(1)
        out = decode(model, prompt, f"contrast:beta={beta},alpha={alpha},rank={ranks}", 4, keep_scores=True)
        ids = torch.cat([prompt["input_ids"], out.ids], 1)[:, :-1]
        with torch.no_grad():
            strong = model(input_ids=ids).logits[0, 5:]
            with steer(model, f"rank:rank={ranks}"):
                weak = model(input_ids=ids).logits[0, 5:]
        wanted = (1 + beta) * strong - beta * weak
        kept = strong >= strong.amax(-1, keepdim=True) + torch.tensor(alpha).log()
        assert torch.equal(kept, out.scores[0].isfinite())
        torch.testing.assert_close(out.scores[0][kept], wanted[kept], atol=1e-4, rtol=1e-4)
        assert out.rows == 2 * (6 + 3)

    def test_the_weak_rows_take_the_named_ranks_only(self, model):
        with capture(model, Want(norms=False)) as recorder:
            decode(model, alone(1), "contrast:rank=3", 2)
        for forward in recorder.take():
            routing = forward.routing[0]
            order = torch.from_numpy(routing.logits).argsort(-1, descending=True)
            strong = torch.tensor([row < forward.length for row in range(2 * forward.length)])
            assert torch.equal(torch.from_numpy(routing.experts)[~strong][:, 0], order[~strong][:, 2])
            assert (routing.weights[~strong.numpy()][:, 1] == 0).all()
            assert torch.equal(
                torch.from_numpy(routing.experts)[strong].sort().values, order[strong][:, :2].sort().values
            )


@pytest.mark.parametrize(
    "strategy", ["plain", "contrast", BIASED, "rewire:steps=2,every=2,confident=1"], ids=lambda s: getattr(s, "name", s)
)
def test_the_cache_changes_nothing(model, strategy):
    cached, anew = (decode(model, PADDED, strategy, 5, use_cache=c, keep_scores=True) for c in (True, False))
    torch.testing.assert_close(cached.scores, anew.scores, atol=1e-4, rtol=1e-3)
    assert cached.rows < anew.rows


@pytest.mark.parametrize(
    "strategy", ["plain", "contrast", BIASED, "rewire:steps=2,confident=1"], ids=lambda s: getattr(s, "name", s)
)
def test_padding_changes_nothing(model, strategy):
    together = decode(model, PADDED, strategy, 4, keep_scores=True)
    for row in range(3):
        single = decode(model, alone(row), strategy, 4, keep_scores=True)
        torch.testing.assert_close(together.scores[row], single.scores[0], atol=1e-4, rtol=1e-3)


# Recurrent layers, sliding windows, compressed and indexed attention: each has another cache.
@pytest.mark.parametrize(
    "name", ["granitemoehybrid", "jamba", "qwen3_next", "lfm2_moe", "gpt_oss", "deepseek_v32", "kimi_linear"]
)
def test_copies_share_any_cache(name):
    model = tiny_model(family(name))
    inputs = {key: value[:2] for key, value in PADDED.items()}
    cached, anew = (decode(model, inputs, BIASED, 4, use_cache=c, keep_scores=True) for c in (True, False))
    torch.testing.assert_close(cached.scores, anew.scores, atol=1e-4, rtol=1e-3)


def test_a_cache_that_cannot_be_shared_is_refused():
    model = tiny_model(family("minimax"))
    with pytest.raises(ProbeError, match="MiniMaxCache"):
        decode(model, PADDED, "ensemble", 2)
    assert decode(model, PADDED, "ensemble", 2, use_cache=False).ids.shape[0] == 3


class TestSampling:
    @pytest.mark.parametrize("strategy", ["plain", "ensemble:n=2,tau=1", "contrast"])
    def test_a_seed_gives_the_same_text_again(self, model, strategy):
        first, again, other = (
            decode(model, PADDED, strategy, 8, sample=True, temperature=2.0, seed=s) for s in (3, 3, 4)
        )
        assert torch.equal(first.ids, again.ids)
        assert not torch.equal(first.ids, other.ids)

    def test_a_low_temperature_is_greedy(self, model):
        cold = decode(model, PADDED, "plain", 5, sample=True, temperature=1e-4)
        assert torch.equal(cold.ids, decode(model, PADDED, "plain", 5).ids)

    def test_logprobs_are_those_of_the_distribution(self, model):
        out = decode(model, PADDED, "ensemble:n=2", 3, sample=True, keep_scores=True)
        wanted = out.scores.log_softmax(-1).gather(2, out.ids[..., None])[..., 0]
        torch.testing.assert_close(out.logprobs, wanted)


class TestEnds:
    def test_a_token_ends_its_sequence_alone(self, model):
        free = decode(model, PADDED, "plain", 6)
        end = int(free.ids[0, 1])
        out = decode(model, PADDED, "plain", 6, stop=[end])
        first = int((free.ids[0] == end).nonzero()[0]) + 1
        assert out.lengths[0] == first
        assert bool(out.stopped[0])
        assert out.logprobs[0, first:].isnan().all()
        for row in (1, 2):
            assert torch.equal(out.ids[row, : out.lengths[row]], free.ids[row, : out.lengths[row]])

    def test_several_tokens_end_it_together(self, model):
        free = decode(model, PADDED, "plain", 6)
        out = decode(model, alone(1), "plain", 6, stop=[free.ids[1, 2:4].tolist()])
        assert torch.equal(out.ids, free.ids[1:2, : out.lengths[0]])
        assert out.ids[0, -2:].tolist() == free.ids[1, 2:4].tolist()

    def test_the_models_own_end_counts(self, model):
        free = decode(model, PADDED, "plain", 4)
        model.generation_config.eos_token_id = [int(free.ids[1, 0])]
        try:
            assert decode(model, alone(1), "plain", 4).lengths.tolist() == [1]
        finally:
            model.generation_config.eos_token_id = None

    def test_whoever_watches_may_end_it(self, model):
        seen = []

        def watch(ids):
            seen.append(ids.shape[1])
            return [ids.shape[1] == 2, False, False]

        out = decode(model, PADDED, "plain", 4, watch=watch)
        assert (seen, out.lengths.tolist()) == ([1, 2, 3, 4], [2, 4, 4])


class TestSteered:
    def test_every_copy_is_steered(self, model):
        with steer(model, "ban:layer=1,expert=3"), capture(model, Want(norms=False)) as recorder:
            decode(model, PADDED, "ensemble:n=3,tau=3,spare_ends=no", 3)
            decode(model, PADDED, "contrast:rank=2", 3)
        assert not any((f.routing[1].experts == 3).any() for f in recorder.take())

    def test_a_phase_stays_what_it_is(self, model):
        """Under the user's own interventions the prompt is not cut in two."""
        with steer(model, "ban:layer=1,expert=3,phase=prefill"), capture(model, Want(norms=False)) as recorder:
            out = decode(model, PADDED, "ensemble:n=3", 2)
        assert [f.length for f in recorder.take()] == [6, 1]
        assert out.rows == 3 * 3 * (6 + 1)

    def test_plain_under_steering_is_generate_under_steering(self, model):
        with steer(model, "temperature:tau=4"):
            given = model.generate(**PADDED, max_new_tokens=5, do_sample=False, pad_token_id=0)[:, 6:]
            assert torch.equal(decode(model, PADDED, "plain", 5).ids, given)

    @pytest.mark.parametrize("strategy", ["ensemble:n=2", "contrast", "rewire:steps=1"])
    def test_nothing_stays_behind_when_it_breaks_off(self, model, strategy):
        before, hooks = decode(model, PADDED, "plain", 3, keep_scores=True).scores, hook_count(model)

        def fail(ids):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            decode(model, PADDED, strategy, 3, watch=fail)
        assert active(model) is None
        assert hook_count(model) == hooks
        assert all(p.requires_grad and p.grad is None for p in model.parameters())
        assert torch.equal(decode(model, PADDED, "plain", 3, keep_scores=True).scores, before)


class TestRefusals:
    def test_padding_on_the_right(self, model):
        with pytest.raises(UsageError, match="padding_side='left'"):
            decode(model, {"input_ids": torch.ones(1, 3).long(), "attention_mask": torch.tensor([[1, 1, 0]])})

    def test_stop_texts(self, model):
        with pytest.raises(UsageError, match="token ids"):
            decode(model, PADDED, stop=["\n"])

    def test_encoders(self):
        with pytest.raises(ProbeError, match="decoders alone"):
            decode(tiny_model(family("switch_transformers")), PADDED)

    def test_routers_that_cannot_be_asked(self):
        with pytest.raises(UsageError, match="rank cannot be carried out"):
            decode(tiny_model(family("dbrx")), PADDED, "contrast", 2)

    def test_ranks_that_are_not_there(self, model):
        with pytest.raises(UsageError, match="ranks 1 to 8"):
            decode(model, PADDED, "contrast:rank=9", 2)


def test_the_sample_model_still_adds():
    model, tokenizer = probes.load_model("sample_data/model")
    ids = tokenizer("12+70=", return_tensors="pt")
    for strategy in ("plain", "ensemble:n=4,tau=0.5", "contrast:beta=0.2"):
        out = decode(model, ids, strategy, 40, stop=[tokenizer.convert_tokens_to_ids("Ċ")])
        assert tokenizer.decode(out.ids[0]).startswith("<think>2+0=2 carry 0; 1+7+0=8</think>82")
