"""What is recorded on request beside the chosen experts: the shared one, and every other one."""

import numpy as np
import pytest
import torch
from models import TOKENS, build, ids_of, record

from probes.capture import Want, discover

IDS = ids_of(TOKENS[:6], TOKENS[50:56])


def watched(module):
    seen = []
    # Copied, because llama4 adds the routed experts' sum to what its shared expert returned, in place.
    module.register_forward_hook(lambda m, args, out: seen.append((args[0], out.clone())))
    return seen


@pytest.mark.parametrize("family", ["qwen2_moe", "deepseek_v3", "granitemoehybrid", "hunyuan_v1_moe", "llama4"])
@torch.no_grad()
def test_it_is_measured_where_the_model_has_one(family):
    model = build(family)
    layers = discover(model)
    assert all(m.shared_experts == 1 for m in layers)
    seen = {m.layer: watched(m.shared) for m in layers}
    (forward,), _ = record(model, Want(shared=True), input_ids=IDS)
    assert sorted(forward.shared) == [m.layer for m in layers]
    for layer, calls in seen.items():
        received, returned = (v.reshape(12, -1).float().abs().amax(-1) for v in calls[-1])
        np.testing.assert_allclose(forward.shared[layer].input_absmax, received, rtol=1e-6)
        np.testing.assert_allclose(forward.shared[layer].absmax, returned, rtol=1e-6)
    (bare,), _ = record(model, Want(), input_ids=IDS)
    assert bare.shared == {}
    assert all((bare.routing[n].experts == forward.routing[n].experts).all() for n in seen)


@torch.no_grad()
def test_a_model_without_one_gives_nothing():
    model = build("mixtral")
    assert all(m.shared_experts == 0 for m in discover(model))
    (forward,), _ = record(model, Want(shared=True), input_ids=IDS)
    assert forward.shared == {}


@pytest.mark.parametrize("implementation", ["grouped_mm", "eager"])
@pytest.mark.parametrize(("family", "want"), [("olmoe", Want(every_norm=True)), ("zaya", Want(every_norm=True))])
@torch.no_grad()
def test_every_expert_is_run_and_nothing_else_changes(family, want, implementation):
    """The chosen experts' places among all are their own norms; ids, weights and logits stay what they were."""
    model = build(family)
    model.set_experts_implementation(implementation)
    (forward,), _ = record(model, want, input_ids=IDS)
    (bare,), _ = record(model, Want(), input_ids=IDS)
    assert bare.expert_norm == {}
    for layer, routing in forward.routing.items():
        every = forward.expert_norm[layer]
        assert every.shape == routing.logits.shape
        own = np.take_along_axis(every, routing.experts, axis=1)
        np.testing.assert_allclose(own, routing.output_norm, rtol=1e-4, atol=1e-7)
        for name in ("experts", "weights", "logits", "output_norm", "output_absmax", "input_absmax"):
            np.testing.assert_array_equal(getattr(routing, name), getattr(bare.routing[layer], name), err_msg=name)


@torch.no_grad()
def test_every_expert_by_hand():
    model = build("mixtral")
    (forward,), recorder = record(model, Want(norms=False, every_norm=True), input_ids=IDS)
    experts = recorder.layers[0].parts.experts
    hidden = watched(experts)
    model(input_ids=IDS)
    rows = hidden[-1][0].reshape(12, -1)
    for e in range(forward.expert_norm[0].shape[1]):
        ids, weights = torch.full((12, 1), e), torch.ones(12, 1)
        np.testing.assert_allclose(forward.expert_norm[0][:, e], experts(rows, ids, weights).norm(dim=-1), rtol=1e-4)
