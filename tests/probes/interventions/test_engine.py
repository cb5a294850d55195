"""The engine: what is edited is what the experts get, in every phase and batch, and nothing of it stays behind."""

import threading

import pytest
import torch

import probes
from probes.capture import Want, capture, discover
from probes.errors import UsageError
from probes.families import families
from probes.families.tiny import tiny_model
from probes.interventions import parse
from probes.interventions.base import Intervention
from probes.steering import active, steer
from tests.conftest import TEXTS

IDS = torch.tensor([[5, 9, 17, 33, 2, 8], [41, 7, 7, 19, 23, 4]])


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def hook_count(model):
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    return hooks + sum("post_expert_norm" in vars(m) for m in model.modules())


def routing_of(model, specs, **inputs):
    with steer(model, specs), capture(model, Want(outputs=True)) as recorder:
        model(**inputs)
    (forward,) = recorder.take()
    return forward.routing


def logits_of(model, specs=(), **inputs):
    with steer(model, specs):
        return model(**inputs).logits


class TestEdits:
    def test_a_banned_expert_is_never_chosen_and_the_next_best_is(self, olmoe):
        plain = routing_of(olmoe, [], input_ids=IDS)[1]
        banned = routing_of(olmoe, "ban:layer=1,expert=3", input_ids=IDS)[1]
        assert (plain.experts == 3).any()
        assert not (banned.experts == 3).any()
        scores = torch.from_numpy(plain.logits).softmax(-1)
        scores[:, 3] = -1
        assert torch.equal(scores.topk(2).indices, torch.from_numpy(banned.experts))

    def test_weights_stay_those_of_the_scores(self, olmoe):
        banned = routing_of(olmoe, "ban:layer=1,expert=3", input_ids=IDS)[1]
        scores = torch.from_numpy(banned.logits).softmax(-1)
        torch.testing.assert_close(scores.gather(1, torch.from_numpy(banned.experts)), torch.from_numpy(banned.weights))

    def test_a_mask_gives_its_mass_to_the_others(self, olmoe):
        masked = routing_of(olmoe, "mask:layer=1,expert=3", input_ids=IDS)[1]
        assert (masked.logits[:, 3] == float("-inf")).all()
        scores = torch.from_numpy(masked.logits).softmax(-1)
        torch.testing.assert_close(scores.gather(1, torch.from_numpy(masked.experts)), torch.from_numpy(masked.weights))

    def test_only_the_named_layer_is_edited(self, olmoe):
        plain, steered = (routing_of(olmoe, specs, input_ids=IDS) for specs in ([], "boost:layer=2,expert=3,factor=4"))
        assert (plain[0].weights == steered[0].weights).all()
        assert (plain[1].weights == steered[1].weights).all()
        factor = torch.where(torch.from_numpy(plain[2].experts) == 3, 4.0, 1.0)
        torch.testing.assert_close(
            torch.from_numpy(plain[2].weights) * factor, torch.from_numpy(_aligned(steered[2], plain[2]))
        )

    def test_the_order_given_is_the_order_of_a_stage(self, olmoe):
        twice = routing_of(olmoe, ["bias:layer=0,expert=1,delta=2", "temperature:layer=0,tau=2"], input_ids=IDS)[0]
        other = routing_of(olmoe, ["temperature:layer=0,tau=2", "bias:layer=0,expert=1,delta=2"], input_ids=IDS)[0]
        plain = routing_of(olmoe, [], input_ids=IDS)[0]
        torch.testing.assert_close(torch.from_numpy(twice.logits[:, 1]), torch.from_numpy((plain.logits[:, 1] + 2) / 2))
        torch.testing.assert_close(torch.from_numpy(other.logits[:, 1]), torch.from_numpy(plain.logits[:, 1] / 2 + 2))

    def test_a_wrong_expert_changes_the_answer(self, olmoe):
        """Each intervention reaches the model's output, not only the recording."""
        plain = logits_of(olmoe, input_ids=IDS)
        for spec in ("ban:expert=3", "zero:expert=3", "boost:expert=3,factor=9", "bias:expert=3,delta=3", "top_k:k=3"):
            assert not torch.equal(plain, logits_of(olmoe, spec, input_ids=IDS)), spec


def _aligned(steered, plain):
    """Weights of `steered` in the slot order of `plain`."""
    back = {}
    for row, (ids, weights) in enumerate(zip(steered.experts, steered.weights, strict=True)):
        back[row] = dict(zip(ids, weights, strict=True))
    return torch.tensor([[back[row][e] for e in ids] for row, ids in enumerate(plain.experts)]).numpy()


class TestPhases:
    SPECS = ("ban:layer=1,expert=3", "boost:layer=2,expert=1+2,factor=3", "mask:layer=0,expert=5")

    def test_with_a_cache_as_without(self, olmoe):
        whole = logits_of(olmoe, self.SPECS, input_ids=IDS)
        with steer(olmoe, self.SPECS):
            first = olmoe(input_ids=IDS[:, :3], use_cache=True)
            steps, cache = [first.logits], first.past_key_values
            for place in range(3, IDS.shape[1]):
                out = olmoe(input_ids=IDS[:, place : place + 1], past_key_values=cache, use_cache=True)
                steps.append(out.logits)
        torch.testing.assert_close(torch.cat(steps, 1), whole, atol=1e-5, rtol=1e-4)

    def test_only_while_decoding(self, olmoe):
        spec = "random:phase=decode"
        assert torch.equal(logits_of(olmoe, spec, input_ids=IDS), olmoe(input_ids=IDS).logits)
        cache = olmoe(input_ids=IDS, use_cache=True).past_key_values
        with steer(olmoe, spec):
            steered = olmoe(input_ids=IDS[:, :1], past_key_values=cache, use_cache=True).logits
        plain = olmoe(input_ids=torch.cat([IDS, IDS[:, :1]], 1)).logits[:, -1:]
        assert not torch.allclose(steered, plain, atol=1e-4)

    def test_left_padding_changes_nothing(self, olmoe, tokenizer):
        texts = [TEXTS[0], TEXTS[4]]
        tokenizer.padding_side = "left"
        batch = tokenizer(texts, return_tensors="pt", padding=True)
        specs = ["ban:layer=1,expert=3,positions=2-5", "boost:layer=2,expert=1,factor=3,last=2"]
        together = logits_of(olmoe, specs, **batch)
        for row, text in enumerate(texts):
            alone = logits_of(olmoe, specs, **tokenizer([text], return_tensors="pt"))
            torch.testing.assert_close(together[row, -alone.shape[1] :], alone[0], atol=1e-5, rtol=1e-4)

    def test_positions_and_tokens_single_out_tokens(self, olmoe):
        plain = routing_of(olmoe, [], input_ids=IDS)[0]
        at = routing_of(olmoe, "temperature:layer=0,tau=2,positions=1-2", input_ids=IDS)[0]
        changed = (plain.logits != at.logits).any(-1).reshape(2, 6)
        assert changed.tolist() == [[False, True, True, False, False, False]] * 2
        at = routing_of(olmoe, "temperature:layer=0,tau=2,token=7", input_ids=IDS)[0]
        assert ((plain.logits != at.logits).any(-1).reshape(2, 6) == (IDS.numpy() == 7)).all()

    def test_a_share_is_the_same_tokens_in_every_layer_and_run(self, olmoe):
        spec = "temperature:tau=1.5,probability=0.5,seed=3"
        first, again = (routing_of(olmoe, spec, input_ids=IDS) for _ in range(2))
        assert all((first[layer].logits == again[layer].logits).all() for layer in first)
        plain = routing_of(olmoe, [], input_ids=IDS)
        share = (plain[0].logits != first[0].logits).any(-1)
        assert 0 < share.sum() < len(share)


class TestRestores:
    def test_bit_for_bit_and_without_a_hook_left(self, olmoe):
        plain, before = olmoe(input_ids=IDS).logits, hook_count(olmoe)
        for spec in ("ban:expert=3", "boost:expert=3", "top_k:k=4", "noise:tau=2", "shrink:to=1"):
            logits_of(olmoe, spec, input_ids=IDS)
            assert torch.equal(plain, olmoe(input_ids=IDS).logits)
            assert hook_count(olmoe) == before
            assert active(olmoe) is None

    @pytest.mark.parametrize("place", ["experts", "gate"])
    def test_after_an_exception_inside_the_pass(self, olmoe, place):
        plain = olmoe(input_ids=IDS).logits
        stop = discover(olmoe)[1].parts
        module = stop.experts if place == "experts" else stop.router

        def fail(*_):
            raise KeyboardInterrupt

        handle = module.register_forward_pre_hook(fail)
        try:
            with pytest.raises(KeyboardInterrupt), steer(olmoe, ["top_k:k=4", "ban:expert=3"]):
                olmoe(input_ids=IDS)
        finally:
            handle.remove()
        assert hook_count(olmoe) == 0
        assert discover(olmoe)[1].parts.router.top_k == 2
        assert torch.equal(plain, olmoe(input_ids=IDS).logits)
        # No function mode is left open: a plain topk is a plain topk.
        assert torch.tensor([1.0, 3.0, 2.0]).topk(1).indices.item() == 1

    def test_a_cancelled_generation(self, olmoe):
        class Cancel(Exception):
            pass

        def cancel(ids, scores):
            if ids.shape[1] > IDS.shape[1] + 2:
                raise Cancel
            return scores

        plain = olmoe(input_ids=IDS).logits
        with pytest.raises(Cancel), steer(olmoe, "ban:expert=3"):
            olmoe.generate(IDS, max_new_tokens=8, do_sample=False, logits_processor=[cancel])
        assert torch.equal(plain, olmoe(input_ids=IDS).logits)

    def test_foreign_hooks_stay_and_are_called(self, olmoe):
        calls = []
        handle = discover(olmoe)[1].parts.router.register_forward_hook(lambda *_: calls.append(1))
        try:
            logits_of(olmoe, "ban:expert=3", input_ids=IDS)
            olmoe(input_ids=IDS)
            assert len(calls) == 2
        finally:
            handle.remove()

    def test_a_refused_spec_hooks_nothing(self, olmoe):
        with (
            pytest.raises(UsageError, match="layer 9 has no router"),
            steer(olmoe, ["ban:expert=3", "ban:layer=9,expert=1"]),
        ):
            pass
        assert hook_count(olmoe) == 0
        assert active(olmoe) is None


class TestSharing:
    def test_within_another_it_adds(self, olmoe):
        both = logits_of(olmoe, ["boost:expert=1,factor=3", "reroute:layer=1,from=1,to=2"], input_ids=IDS)
        outer = logits_of(olmoe, "boost:expert=1,factor=3", input_ids=IDS)
        with steer(olmoe, "boost:expert=1,factor=3"):
            with steer(olmoe, "reroute:layer=1,from=1,to=2") as inner:
                assert len(inner.specs) == 2
                assert torch.equal(olmoe(input_ids=IDS).logits, both)
            assert torch.equal(olmoe(input_ids=IDS).logits, outer)

    def test_another_threads_pass_is_not_steered(self, olmoe):
        plain, seen = olmoe(input_ids=IDS).logits, []

        def other():
            with torch.no_grad():
                seen.append(olmoe(input_ids=IDS).logits)

        with steer(olmoe, "ban:expert=3"):
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
        assert torch.equal(seen[0], plain)

    def test_a_capture_inside_sees_what_the_experts_got(self, olmoe):
        with steer(olmoe, "zero:layer=1,expert=3"), capture(olmoe) as recorder:
            olmoe(input_ids=IDS)
        routing = recorder.take()[0].routing[1]
        assert (routing.weights[routing.experts == 3] == 0).all()
        assert (routing.experts == 3).any()


class TestNothing:
    def test_no_specs_and_neutral_specs_hook_nothing(self, olmoe):
        for specs in ([], "boost:expert=3,factor=1", "bias:expert=3,delta=0", "temperature:tau=1", "noise:tau=0"):
            with steer(olmoe, specs):
                assert hook_count(olmoe) == 0

    def test_is_exported(self):
        assert probes.steer is steer
        assert isinstance(probes.interventions.interventions()["ban"], Intervention)


class TestOutputs:
    """Outputs are edited inside the experts where there is a place, and recomputed where there is none."""

    @pytest.fixture
    def halved(self, monkeypatch):
        from probes import interventions

        declared = Intervention(
            "halved", "Halved", "halves outputs", "y / 2", "test", "half", named="experts",
            outputs=lambda site, options, outputs, experts: torch.where(
                site.mask(outputs)[experts][:, None], outputs / 2, outputs
            ),
        )  # fmt: skip
        known = interventions.interventions()
        monkeypatch.setattr(interventions, "interventions", lambda: {**known, "halved": declared})

    @pytest.mark.parametrize("name", ["olmoe", "dbrx"])
    @pytest.mark.parametrize("scope", ["", ",positions=1-3"])
    def test_half_an_output_is_half_a_weight(self, halved, name, scope):
        model = tiny_model(families()[name])
        spec = f"expert=3{scope}"
        first = logits_of(model, f"halved:{spec}", input_ids=IDS)
        second = logits_of(model, f"boost:{spec},factor=0.5", input_ids=IDS)
        torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(first, model(input_ids=IDS).logits, atol=1e-5)


@pytest.mark.parametrize(
    "family", ["qwen3_moe", "deepseek_v3", "gpt_oss", "mixtral", "gemma4", "dbrx", "inkling", "llama4"]
)
def test_a_ban_holds_in_every_kind_of_router(family):
    model = tiny_model(families()[family])
    inputs = {"input_ids": IDS}
    with capture(model, Want(norms=False)) as recorder:
        plain = model(**inputs).logits
    before = recorder.take()[0].routing
    spec = parse({"name": "ban", "experts": [[layer, int(r.experts[0, 0])] for layer, r in before.items()]})
    with steer(model, [spec]), capture(model, Want(norms=False)) as recorder:
        steered = model(**inputs).logits
    after = recorder.take()[0].routing
    for layer, routing in before.items():
        assert not (after[layer].experts == routing.experts[0, 0]).any()
    assert not torch.equal(plain, steered)
    assert torch.equal(model(**inputs).logits, plain)
