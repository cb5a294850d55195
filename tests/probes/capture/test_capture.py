"""What is recorded is what the model did, the model does what it did without us, and nothing of ours stays."""

import threading

import numpy as np
import pytest
import torch
from models import TOKENS, build, ids_of, record

from probes.capture import Want, capture, discover, self_test
from probes.capture import experts as slot_expansion
from probes.capture.hooks import Hooks, lock_of
from probes.errors import ProbeError
from probes.families.base import as_tensor
from probes.families.layout import Point

IDS = ids_of(TOKENS[:7], TOKENS[30:37])


def hook_count(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.fixture(scope="module")
def model():
    return build("olmoe")


def by_hand(experts, hidden, expert):
    """One expert of an ordinary container from its raw weights: down(silu(gate·h) * (up·h))."""
    gate, up = (hidden @ experts.gate_up_proj[expert].T).chunk(2, dim=-1)
    return (torch.nn.functional.silu(gate) * up) @ experts.down_proj[expert].T


@torch.no_grad()
def test_expert_outputs_are_those_of_the_raw_weights(model):
    layer = discover(model)[1]
    inputs = []
    handle = layer.parts.experts.register_forward_hook(lambda m, args, out: inputs.append(args[0]))
    (forward,), _ = record(model, Want(outputs=True), input_ids=IDS)
    handle.remove()
    routing = forward.routing[layer.layer]
    for row in range(len(routing.experts)):
        for slot, expert in enumerate(routing.experts[row]):
            expected = by_hand(layer.parts.experts, inputs[-1][row], expert).numpy()
            np.testing.assert_allclose(routing.outputs[row, slot], expected, rtol=1e-4, atol=1e-6)
            assert routing.output_norm[row, slot] == pytest.approx(np.linalg.norm(expected), rel=1e-4)
            assert routing.output_absmax[row, slot] == pytest.approx(np.abs(expected).max(), rel=1e-4)
    np.testing.assert_allclose(routing.input_absmax, inputs[-1].abs().amax(-1).numpy())


@torch.no_grad()
def test_logits_are_those_of_the_raw_router(model):
    layer = discover(model)[0]
    (forward,), _ = record(model, Want(router_inputs=True), input_ids=IDS)
    received = torch.from_numpy(forward.router_inputs[0])
    expected = received @ layer.parts.router.weight.T
    np.testing.assert_allclose(forward.routing[0].logits, expected.numpy(), rtol=1e-4, atol=1e-5)
    assert np.array_equal(forward.routing[0].experts, expected.topk(2).indices.numpy())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("implementation", ["grouped_mm", "batched_mm", "eager"])
@torch.no_grad()
def test_the_output_is_bit_identical_in_every_dtype_and_implementation(dtype, implementation):
    model = build("qwen3_moe", dtype)
    model.set_experts_implementation(implementation)
    plain = model(input_ids=IDS).logits
    with capture(model, Want(outputs=True, moments=True)) as recorder:
        recorded = model(input_ids=IDS).logits
        (forward,) = recorder.take()
    assert torch.equal(plain, recorded)
    assert {r.mode for r in recorder.report.layers} == {"observe" if implementation == "eager" else "inside"}
    routing = forward.routing[0]
    assert forward.logits_bf16 == (dtype == "bfloat16")
    assert routing.logits.dtype == {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}[dtype]
    assert routing.weights.dtype == routing.output_norm.dtype == routing.outputs.dtype == np.float32
    assert as_tensor(routing.logits).dtype == getattr(torch, dtype)


@pytest.mark.parametrize("name", ["olmoe", "muse_spark", "gpt_oss"])
@torch.no_grad()
def test_the_three_ways_to_expert_outputs_agree(name, monkeypatch):
    """Seen inside, by the rewritten call, and by a second run of the expanded call."""
    found, plain = {}, None
    for way in ("inside", "rewrite", "observe"):
        model = build(name)
        if way != "inside":
            monkeypatch.setattr(slot_expansion, "has_inside", lambda experts: False)
        if way == "observe":
            monkeypatch.setattr("probes.capture.check.SAME_SUM", ())
        plain = model(input_ids=IDS)[0] if plain is None else plain
        with capture(model, Want(outputs=True)) as recorder:
            assert torch.equal(model(input_ids=IDS)[0], plain)
            found[way] = recorder.take()[0].routing[0]
        assert {r.mode for r in recorder.report.layers} == {way}
    for way in ("rewrite", "observe"):
        for field in ("outputs", "output_norm", "output_absmax", "input_absmax"):
            assert np.array_equal(getattr(found["inside"], field), getattr(found[way], field)), (way, field)


@torch.no_grad()
def test_small_and_large_passes_give_the_same_norms(model, monkeypatch):
    """Small ones are reduced together at the end of the pass, large ones at once."""
    (small,), _ = record(model, input_ids=IDS)
    (single,), _ = record(model, input_ids=IDS[:1, :1])
    monkeypatch.setattr("probes.capture.tap.SMALL", 0)
    (large,), _ = record(model, input_ids=IDS)
    (large_single,), _ = record(model, input_ids=IDS[:1, :1])
    for first, second in ((small, large), (single, large_single)):
        for layer in first.routing:
            for field in ("output_norm", "output_absmax", "input_absmax", "experts"):
                a, b = getattr(first.routing[layer], field), getattr(second.routing[layer], field)
                np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("implementation", ["grouped_mm", "eager"])
@torch.no_grad()
def test_long_passes_are_observed_in_pieces(implementation):
    model = build("olmoe")
    model.set_experts_implementation(implementation)
    (whole,), _ = record(model, Want(outputs=True), input_ids=IDS)
    with capture(model, Want(outputs=True), max_bytes=3 * 2 * 32 * 4) as recorder:
        model(input_ids=IDS)
        (pieces,) = recorder.take()
    for layer in whole.routing:
        np.testing.assert_allclose(pieces.routing[layer].outputs, whole.routing[layer].outputs, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_moments_are_those_of_the_outputs_of_real_tokens(model):
    mask = torch.ones_like(IDS)
    mask[0, :3] = 0
    with capture(model, Want(outputs=True, moments=True)) as recorder:
        model(input_ids=IDS, attention_mask=mask)
        model(input_ids=IDS.flip(0))
        forwards = recorder.take()
        moments = recorder.moments
    for layer, (count, mean, m2) in moments.items():
        ids = np.concatenate([f.routing[layer].experts[f.mask.reshape(-1)].reshape(-1) for f in forwards])
        outputs = np.concatenate([f.routing[layer].outputs[f.mask.reshape(-1)].reshape(-1, 32) for f in forwards])
        assert np.array_equal(count, np.bincount(ids, minlength=8))
        for expert in np.flatnonzero(count):
            mine = outputs[ids == expert]
            np.testing.assert_allclose(mean[expert], mine.mean(0), rtol=1e-3, atol=1e-6)
            np.testing.assert_allclose(m2[expert], ((mine - mine.mean(0)) ** 2).sum(0), rtol=1e-3, atol=1e-6)


@torch.no_grad()
def test_the_residual_stream_around_the_experts(model):
    block = discover(model)[0].parts.block
    layer = model.model.layers[0]
    seen = {}
    handles = [
        layer.post_attention_layernorm.register_forward_hook(lambda m, args, out: seen.update(h=args[0])),
        block.register_forward_hook(lambda m, args, out: seen.update(r=out)),
    ]
    (forward,), _ = record(model, Want(hidden=True), input_ids=IDS)
    for handle in handles:
        handle.remove()
    h = seen["h"].reshape(-1, 32)
    expected = torch.nn.functional.cosine_similarity(h, h + seen["r"].reshape(-1, 32), dim=-1)
    np.testing.assert_allclose(forward.hidden[0].similarity, expected.numpy(), rtol=1e-5)
    np.testing.assert_allclose(forward.hidden[0].absmax, h.abs().amax(-1).numpy())
    np.testing.assert_allclose(forward.hidden[0].absmedian, h.abs().median(-1).values.numpy())


def test_what_is_not_asked_for_registers_no_hook(model):
    def hooks(want):
        with capture(model, want):
            return {n: hook_count(m) for n, m in model.named_modules() if n.endswith(("gate", "experts", "layernorm"))}

    least = hooks(Want(logits=False, weights=False, norms=False))
    assert sum(n for name, n in least.items() if name.endswith("gate")) == 0
    assert [n for name, n in least.items() if name.endswith("experts")] == [1, 1, 1]
    assert sum(n for name, n in least.items() if name.endswith("layernorm")) == 0
    assert sum(hooks(Want(norms=False, layers=(1,))).values()) == 2
    assert sum(hooks(Want(hidden=True)).values()) > sum(hooks(Want()).values())


@torch.no_grad()
def test_what_is_not_asked_for_is_not_there(model):
    (forward,), _ = record(model, Want(logits=False, weights=False, norms=False, layers=(2,)), input_ids=IDS)
    routing = forward.routing[2]
    assert list(forward.routing) == [2]
    assert routing.experts.shape == (14, 2)
    assert (routing.logits, routing.weights, routing.output_norm, routing.outputs) == (None, None, None, None)
    assert forward.hidden == forward.router_inputs == {}


@torch.no_grad()
def test_slots_stand_in_descending_weight_with_everything_that_is_theirs():
    """DeepSeek chooses by biased scores, without sorting: the order of the model is not that of the weights."""
    model = build("deepseek_v3")
    (forward,), _ = record(model, Want(outputs=True), input_ids=IDS)
    for routing in forward.routing.values():
        assert (np.diff(routing.weights, axis=1) <= 0).all()
        np.testing.assert_allclose(np.linalg.norm(routing.outputs, axis=-1), routing.output_norm, rtol=1e-5)
        scores = 1 / (1 + np.exp(-routing.logits.astype(np.float64)))
        chosen = np.take_along_axis(scores, routing.experts, axis=1)
        shares = [values / values.sum(axis=1, keepdims=True) for values in (chosen, routing.weights)]
        np.testing.assert_allclose(*shares, rtol=1e-5)


@torch.no_grad()
def test_an_exception_inside_a_pass_leaves_nothing(model):
    plain = model(input_ids=IDS).logits

    def explode(*_):
        raise RuntimeError("inside")

    with capture(model, Want()) as recorder:
        handle = model.model.layers[-1].register_forward_hook(explode)
        with pytest.raises(RuntimeError, match="inside"):
            model(input_ids=IDS)
        handle.remove()
        assert recorder.take() == []
        recorded = model(input_ids=IDS[:1]).logits
        (forward,) = recorder.take()
    assert forward.batch == 1
    assert len(forward.routing[0].experts) == 7
    assert torch.equal(recorded, model(input_ids=IDS[:1]).logits)
    with pytest.raises(KeyError), capture(model, Want()):
        raise KeyError
    assert hook_count(model) == 0
    assert torch.equal(model(input_ids=IDS).logits, plain)


def test_a_registration_that_fails_half_way_leaves_nothing(model):
    gate = discover(model)[0].parts.router
    experts = discover(model)[0].parts.experts
    points = [Point(gate, "after", print), Point(experts, "inside", print), Point(gate, "beside", print)]
    with pytest.raises(ValueError, match="beside"), Hooks(points):
        pass
    assert hook_count(model) == 0
    assert not experts.has_post_expert_norm
    assert "post_expert_norm" not in vars(experts)
    with pytest.raises(AttributeError), Hooks([Point(gate, "after", print), Point(gate, "inside", print)]):
        pass
    assert hook_count(model) == 0


@torch.no_grad()
def test_a_strangers_hook_stays_and_is_called_once_per_pass():
    model = build("dbrx")  # its experts run twice; the stranger must not notice
    calls = []
    handles = [
        m.register_forward_hook(lambda m, args, out, n=n: calls.append((n, args[0].shape)))
        for n, m in model.named_modules()
        if n.endswith(("router", "experts"))
    ]
    model(input_ids=IDS)
    plain, calls[:] = list(calls), []
    with capture(model, Want()):
        during = hook_count(model)
        calls.clear()  # the self-test's own pass is one more
        model(input_ids=IDS)
    assert calls == plain
    assert during > hook_count(model) == len(handles)
    for handle in handles:
        handle.remove()


@torch.no_grad()
def test_what_a_stranger_edits_is_what_is_recorded(model):
    """Ids and weights are those the experts really receive, also when a hook of someone else changed them."""
    experts = discover(model)[0].parts.experts

    def second_only(module, args):
        hidden, ids, weights = args
        return hidden, ids.flip(-1), weights * torch.tensor([1.0, 0.0])

    handle = experts.register_forward_pre_hook(second_only)
    (forward,), _ = record(model, input_ids=IDS)
    handle.remove()
    (plain,), _ = record(model, input_ids=IDS)
    assert np.array_equal(forward.routing[0].experts[:, 0], plain.routing[0].experts[:, 1])
    assert (forward.routing[0].weights[:, 1] == 0).all()


def test_a_second_thread_waits_and_a_nested_capture_does_not(model):
    order = []

    def second():
        with capture(model, Want(norms=False)) as recorder, torch.no_grad():
            order.append("second in")
            model(input_ids=IDS[:1])
            order.append(len(recorder.take()))

    with capture(model, Want()) as outer, torch.no_grad():
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.3)
        order.append("first still in")
        model(input_ids=IDS)
        with capture(model, Want(norms=False)) as inner:
            model(input_ids=IDS)
        assert len(inner.take()) == 1
        assert len(outer.take()) == 2
    thread.join(20)
    assert order == ["first still in", "second in", 1]
    assert hook_count(model) == 0
    assert lock_of(model) is lock_of(model)


def test_passes_of_another_thread_are_not_recorded(model):
    with capture(model, Want()) as recorder:
        thread = threading.Thread(target=lambda: model(input_ids=IDS))
        thread.start()
        thread.join(20)
        assert recorder.take() == []


def test_a_gradient_still_flows(model):
    with capture(model, Want(outputs=True)) as recorder:
        loss = model(input_ids=IDS, labels=IDS).loss
        loss.backward()
        (forward,) = recorder.take()
    assert discover(model)[0].parts.router.weight.grad is not None
    assert forward.routing[0].logits.shape == (14, 8)
    model.zero_grad()


def test_the_self_test_is_remembered_until_the_model_changes():
    model = build("olmoe")
    first = self_test(model)
    assert first.ok
    assert self_test(model) is first
    model.set_experts_implementation("eager")
    assert self_test(model) is not first
    assert self_test(model, again=True) is not self_test(model, again=True)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_training_mode_and_compiled_models_are_refused():
    model = build("olmoe")
    with pytest.raises(ProbeError, match=r"training mode.*model\.eval"), capture(model.train()):
        pass
    model.eval().compile()
    with pytest.raises(ProbeError, match="compiled"), capture(model):
        pass


def test_a_dense_model_is_refused_by_name():
    from transformers import LlamaConfig, LlamaForCausalLM

    dense = LlamaForCausalLM(
        LlamaConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=32)
    ).eval()
    assert discover(dense) == []
    with pytest.raises(ProbeError, match="LlamaForCausalLM has no mixture-of-experts layers"), capture(dense):
        pass


def test_a_layer_that_is_not_there_is_refused(model):
    with pytest.raises(ProbeError, match=r"layer 9 .* \[0, 1, 2\]"), capture(model, Want(layers=(9,))):
        pass


def test_gating_parameters_are_json(model):
    import json

    with capture(build("deepseek_v3"), Want()) as recorder:
        parameters = json.loads(json.dumps(recorder.gating_parameters))
    one = parameters["1"]
    assert one["groups"] == 4
    assert one["rule"] == "sigmoid_bias"
    assert len(one["bias"]["values"]) == 8
    assert one["bias"]["dtype"] == "float32"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("rows", [3, 3000])
def test_the_largest_absolute_component_in_every_dtype_and_size(dtype, rows):
    from probes.capture.tap import absmax, norm

    torch.manual_seed(0)
    values = torch.randn(rows, 4, 8, dtype=torch.float32).to(dtype)
    values[0, 0, 3], values[1, 1, 2], values[2, 2] = float("nan"), -200, 0.0
    expected = values.double().abs().amax(-1)
    assert torch.equal(absmax(values).double().nan_to_num(nan=-1), expected.nan_to_num(nan=-1))
    assert torch.allclose(norm(values).double(), values.double().norm(dim=-1), rtol=1e-5, equal_nan=True)
