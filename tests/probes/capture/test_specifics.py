"""Families whose tensors are not at the usual places."""

import numpy as np
import torch
from models import TOKENS, build, ids_of, record

from probes.capture import Want, discover
from probes.families import rules
from probes.families.base import as_tensor

IDS = ids_of(TOKENS[:6], TOKENS[50:56])


def watched(module):
    seen = []
    module.register_forward_hook(lambda m, args, out: seen.append((args, out)))
    return seen


@torch.no_grad()
def test_llama4_weights_the_input_and_norms_contain_the_weight():
    model = build("llama4")
    experts = discover(model)[0].parts.experts
    seen = watched(experts)
    (forward,), _ = record(model, Want(outputs=True), input_ids=IDS)
    routing, (_, out) = forward.routing[0], seen[-1]
    every = out.view(8, 12, -1)
    for row, ids in enumerate(routing.experts):
        np.testing.assert_allclose(routing.outputs[row], every[ids, row].numpy(), rtol=1e-5, atol=1e-7)
    others = np.setdiff1d(np.arange(8), routing.experts[0])
    assert float(every[others, 0].abs().max()) == 0
    expected = 1 / (1 + np.exp(-np.take_along_axis(routing.logits, routing.experts, axis=1)))
    np.testing.assert_allclose(routing.weights, expected, rtol=1e-5)


@torch.no_grad()
def test_jetmoe_routes_its_attention_in_a_stream_of_its_own():
    model = build("jetmoe")
    found = discover(model)
    assert [(m.layer, m.stream) for m in found] == [(n, "mlp" if n < 3 else "attention") for n in range(6)]
    block = found[0].parts.block
    seen = watched(block)
    (forward,), _ = record(model, Want(outputs=True), input_ids=IDS)
    routing = forward.routing[0]
    total = (routing.outputs * routing.weights[..., None]).sum(1) + block.bias.detach().numpy()
    np.testing.assert_allclose(total, seen[-1][1].reshape(12, -1).numpy(), rtol=1e-4, atol=1e-6)
    hidden = seen[-1][0][0].reshape(12, -1)
    for row, slot in ((0, 0), (5, 1)):
        expert = routing.experts[row, slot]
        gate, up = (block.input_linear.weight[expert] @ hidden[row]).chunk(2)
        expected = block.output_linear.weight[expert] @ (block.activation(gate) * up)
        np.testing.assert_allclose(routing.outputs[row, slot], expected.numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(forward.routing[3].weights.sum(1), 1, rtol=1e-5)


@torch.no_grad()
def test_switch_drops_what_is_beyond_capacity_and_says_so():
    model = build("switch_transformers")
    for found in discover(model):
        found.parts.router.expert_capacity = 2
    forwards, recorder = record(model, input_ids=IDS, decoder_input_ids=IDS[:, :4])
    assert [(f.stream, f.batch, f.length) for f in forwards] == [("encoder", 2, 6), ("mlp", 2, 4)]
    encoder = forwards[0]
    assert {r.stream for r in recorder.routers} == {"mlp", "encoder"}
    dropped = 0
    for routing in encoder.routing.values():
        asked = routing.logits.argmax(-1).reshape(2, 6)
        for sequence in range(2):
            for position, expert in enumerate(asked[sequence]):
                row = sequence * 6 + position
                before = int((asked[sequence, :position] == expert).sum())
                assert routing.experts[row, 0] == (expert if before < 2 else -1)
                assert (routing.weights[row, 0] == 0) == (before >= 2)
                dropped += before >= 2
    assert dropped > 0


@torch.no_grad()
def test_dbrx_chooses_in_the_block_and_normalises_by_its_norm():
    model = build("dbrx")
    (forward,), recorder = record(model, input_ids=IDS)
    routing = forward.routing[0]
    probabilities = torch.from_numpy(routing.logits).softmax(-1)
    weights, ids = probabilities.topk(2)
    assert np.array_equal(routing.experts, ids.numpy())
    power = recorder.gating_parameters[0]["norm_p"]
    np.testing.assert_allclose(
        routing.weights, (weights / weights.norm(p=power, dim=-1, keepdim=True)).numpy(), rtol=1e-5
    )


@torch.no_grad()
def test_gemma4_logits_come_from_the_projection_and_not_its_probabilities():
    model = build("gemma4")
    router = discover(model)[0].parts.router
    seen = watched(router)
    (forward,), recorder = record(model, input_ids=IDS)
    probabilities = torch.from_numpy(forward.routing[0].logits).softmax(-1)
    np.testing.assert_allclose(probabilities.numpy(), seen[-1][1][0].numpy(), rtol=1e-5, atol=1e-7)
    assert (forward.routing[0].logits < 0).any()
    assert len(recorder.gating_parameters[0]["expert_scale"]["values"]) == 8


@torch.no_grad()
def test_zaya_skips_are_the_last_class_and_put_nothing_out():
    model = build("zaya")
    for found in discover(model):
        found.parts.router.balancing_biases.zero_()
        found.parts.router.balancing_biases[-1] = 0.3  # so that some tokens skip and others do not
    (forward,), recorder = record(model, Want(outputs=True), input_ids=IDS)
    assert {r.num_experts for r in recorder.routers} == {9}
    skipped = np.concatenate([r.experts[:, 0] == 8 for r in forward.routing.values()])
    weights = np.concatenate([r.weights[:, 0] for r in forward.routing.values()])
    norms = np.concatenate([r.output_norm[:, 0] for r in forward.routing.values()])
    assert 0 < skipped.sum() < len(skipped)
    assert np.array_equal(skipped, weights == 0)
    assert np.array_equal(skipped, norms == 0)


@torch.no_grad()
def test_ernie_vl_sends_image_tokens_to_experts_of_their_own():
    model = build("ernie4_5_vl_moe")
    kinds = torch.tensor([[0, 1, 1, 0, 0, 2], [0, 0, 0, 0, 0, 0]])
    (forward,), recorder = record(model, input_ids=IDS, moe_mm_token_type_ids=kinds)
    image = kinds.reshape(-1).numpy() > 0
    streams = {r.layer: r.stream for r in recorder.routers}
    assert set(streams.values()) == {"mlp", "vision"}
    for layer, routing in forward.routing.items():
        mine = image if streams[layer] == "vision" else ~image
        assert ((routing.experts >= 0).all(axis=1) == mine).all()
        assert np.array_equal(np.isnan(routing.weights).any(axis=1), ~mine)
    (text,), _ = record(model, input_ids=IDS)
    assert {streams[layer] for layer in text.routing} == {"mlp"}
    assert {streams[layer] for layer in text.missing} == {"vision"}


@torch.no_grad()
def test_deepseek_v4_hash_layers_choose_by_token_id():
    model = build("deepseek_v4")
    (forward,), recorder = record(model, input_ids=IDS)
    table = model.model.layers[0].mlp.gate.tid2eid
    assert recorder.gating_parameters[0]["rule"] == "hash"
    assert recorder.gating_parameters[1]["rule"] == "sqrtsoftplus_bias"
    chosen = np.sort(forward.routing[0].experts, axis=1)
    assert np.array_equal(chosen, table[IDS.reshape(-1)].sort(dim=-1).values.numpy())


@torch.no_grad()
def test_longcat_identity_experts_return_their_input():
    model = build("longcat_flash")
    seen = watched(discover(model)[0].parts.experts)
    (forward,), recorder = record(model, Want(outputs=True), input_ids=IDS)
    (report,) = recorder.report.layers
    assert report.padded
    assert report.router.num_experts == 10
    routing = forward.routing[0]
    rows, slots = np.nonzero(routing.experts >= 8)
    assert len(rows)
    np.testing.assert_allclose(routing.outputs[rows, slots], seen[-1][0][0].numpy()[rows], rtol=1e-6)


@torch.no_grad()
def test_doge_ids_are_those_looked_up():
    model = build("doge")
    seen = watched(discover(model)[0].parts.block.down_embed)
    (forward,), recorder = record(model, input_ids=IDS)
    assert recorder.routers[0].num_experts == 16
    assert forward.routing[0].logits.shape == (12, 8)
    assert np.array_equal(np.sort(forward.routing[0].experts, 1), seen[-1][0][0].sort(dim=-1).values.numpy())


def test_nllb_is_refused_with_the_reason():
    import pytest

    from probes.capture import capture
    from probes.errors import ProbeError

    with pytest.raises(ProbeError, match="broken in transformers"), capture(build("nllb_moe")):
        pass


@torch.no_grad()
def test_bf16_ties_do_not_hide_the_models_own_choice():
    """Stored bf16 logits recompute the choice although many of them are equal."""
    model = build("mistral4", "bfloat16")
    (forward,), recorder = record(model, input_ids=IDS)
    layer, routing = next(iter(forward.routing.items()))
    ids, _ = rules()["softmax_groups"](as_tensor(routing.logits), recorder.gating_parameters[layer])
    assert np.array_equal(np.sort(ids.numpy(), 1), np.sort(routing.experts, 1))
