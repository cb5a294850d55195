"""What the self-test remembers of a model is forgotten when the model is changed in place."""

import copy

import pytest
import torch

import probes
from probes.capture import Want, capture, discover, self_test
from probes.families import families
from probes.families.tiny import tiny_model

IDS = torch.tensor([[5, 6, 7, 8, 9]])


@pytest.fixture
def model(olmoe):
    return copy.deepcopy(olmoe)


def seen(model, want=None):
    """layer -> (experts [T, k], logits [T, E]) of one captured pass."""
    with capture(model, want or Want()) as recorder, torch.no_grad():
        model(input_ids=IDS)
    return {layer: (r.experts, r.logits) for layer, r in recorder.take()[0].routing.items()}


def by_hand(model):
    """The same from plain hooks on the routers' linear maps: top-k of x Wᵀ."""
    found, handles = {}, []
    for layer in discover(model):

        def keep(module, args, output, layer=layer):
            logits = torch.nn.functional.linear(args[0].reshape(-1, args[0].shape[-1]), module.weight)
            found[layer.layer] = (logits.topk(module.top_k, -1).indices, logits)

        handles.append(layer.parts.router.register_forward_hook(keep))
    with torch.no_grad():
        model(input_ids=IDS)
    for handle in handles:
        handle.remove()
    return found


def same(model):
    ours, theirs = seen(model), by_hand(model)
    assert ours.keys() == theirs.keys()
    for layer, (experts, logits) in theirs.items():
        assert ours[layer][0].tolist() == experts.tolist()
        torch.testing.assert_close(torch.as_tensor(ours[layer][1]).float(), logits, atol=1e-5, rtol=1e-4)


def prune(model, kept=(0, 2, 4, 6)):
    for layer in discover(model):
        experts, router = layer.parts.experts, layer.parts.router
        for name in ("gate_up_proj", "down_proj"):
            setattr(experts, name, torch.nn.Parameter(getattr(experts, name)[list(kept)].detach()))
        router.weight = torch.nn.Parameter(router.weight[list(kept)].detach())
        experts.num_experts = router.num_experts = len(kept)


def test_pruned_experts(model):
    self_test(model)
    prune(model)
    assert {r.router.num_experts for r in self_test(model).layers} == {4}
    same(model)


@pytest.mark.parametrize("top_k", [1, 4])
def test_another_top_k(model, top_k):
    self_test(model)
    for layer in discover(model):
        layer.parts.router.top_k = top_k
    assert {r.router.top_k for r in self_test(model).layers} == {top_k}
    same(model)


def test_a_replaced_router(model):
    self_test(model)
    block = model.model.layers[1].mlp
    block.gate = copy.deepcopy(block.gate)
    block.gate.weight.data.neg_()
    assert [r.found.parts.router for r in self_test(model).layers][1] is block.gate
    same(model)


def test_a_replaced_block_without_experts(model):
    self_test(model)
    model.model.layers[2].mlp = torch.nn.Linear(32, 32)
    assert [r.layer for r in self_test(model).layers] == [0, 1]


def test_a_normalisation_switched_on():
    model = tiny_model(families()["qwen3_moe"])
    before = self_test(model).layers[0].found.parameters["normalise"]
    for layer in discover(model):
        layer.parts.router.norm_topk_prob = not before
    assert self_test(model).layers[0].found.parameters["normalise"] is not before


@pytest.mark.filterwarnings("ignore")  # of peft and transformers about each other
def test_adapters_added(model):
    peft = pytest.importorskip("peft")
    report = self_test(model)
    peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"])).eval()  # changes it in place
    assert self_test(model) is not report
    same(model)


def test_an_unchanged_model_is_tested_once(model):
    report = self_test(model)
    with torch.no_grad():
        model(input_ids=IDS)
        model.generate(input_ids=IDS, max_new_tokens=2, do_sample=False)
    assert self_test(model) is report
    with probes.steer(model, ["ban:layer=1,expert=3", "output:mode=scale,layer=0,expert=1,factor=0.5"]):
        assert self_test(model) is report
        with capture(model, Want(norms=True)):
            assert self_test(model) is report
    assert self_test(model) is report


def test_recordings_before_and_after(model, tokenizer, prompts_file, tmp_path):
    """The whole way: what is stored as top_k is the width the rows have."""
    from store.trace import open_trace

    for name, top_k in (("a", 2), ("b", 1), ("c", 4)):
        for layer in discover(model):
            layer.parts.router.top_k = top_k
        probes.record(model, prompts_file, tmp_path / name, tokenizer=tokenizer, progress=False)
        trace = open_trace(tmp_path / name)
        assert set(trace.layers(1).top_k) == {top_k}
        assert trace.sql("SELECT DISTINCT len(experts) AS n FROM routing").n.tolist() == [top_k]
