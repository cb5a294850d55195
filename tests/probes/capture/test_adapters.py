"""Adapters around routers, experts and whole blocks: the gating rule stays known, the logits are the adapted ones."""

import numpy as np
import pytest
import torch
from models import TOKENS, build, ids_of, record
from seen import received, same

import probes
from probes.capture import Want, capture, discover, self_test
from probes.errors import ProbeError

peft = pytest.importorskip("peft")
IDS = ids_of(TOKENS[:7])
pytestmark = pytest.mark.filterwarnings("ignore")

ADAPTERS = {
    "all-linear": {"target_modules": "all-linear"},
    "router and experts": {
        "target_modules": ["o_proj"],
        "target_parameters": ["mlp.gate.weight", "mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
    },
    "saved router": {"target_modules": ["o_proj"], "modules_to_save": ["gate"]},
    "saved block": {"target_modules": ["o_proj"], "modules_to_save": ["mlp"]},
    "attention": {"target_modules": ["o_proj"]},
    "dora": {"target_modules": ["o_proj"], "use_dora": True},
}


def adapted(name, adapter, seed=0):
    """A model with an adapter that does something: random weights, saved copies that differ from the originals."""
    model = build(name)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=4, **ADAPTERS[adapter])).eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        for key, parameter in wrapped.named_parameters():
            if "lora_B" in key or ("modules_to_save" in key and "mlp" not in model.config.model_type):
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return wrapped, model


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("name", ["deepseek_v3", "qwen3_moe", "mixtral", "gpt_oss"])
@torch.no_grad()
def test_the_rule_of_the_adapted_router_is_that_of_the_router(name, adapter):
    try:
        wrapped, _model = adapted(name, adapter)
    except ValueError as error:
        pytest.skip(f"peft cannot: {error}")
    plain = self_test(build(name)).layers
    report = self_test(wrapped)
    assert [(r.router, r.recomputed, r.outputs, r.mode) for r in report.layers if not _saved(r)] == [
        (p.router, p.recomputed, p.outputs, p.mode) for p, r in zip(plain, report.layers, strict=True) if not _saved(r)
    ]
    assert [(r.router.gating, r.router.num_experts, r.router.top_k, r.recomputed) for r in report.layers] == [
        (p.router.gating, p.router.num_experts, p.router.top_k, p.recomputed) for p in plain
    ]
    with received(wrapped) as calls:
        (forward,), recorder = record(wrapped, Want(outputs=True, router_inputs=True), input_ids=IDS)
    same([forward], calls)
    assert {p["rule"] for p in recorder.gating_parameters.values()} == {plain[0].router.gating}


def _saved(report):
    return "modules_to_save" in report.router.module


@torch.no_grad()
def test_logits_are_those_of_the_adapted_router():
    """By hand: x (W + B A · scale)ᵀ, in float64."""
    wrapped, _ = adapted("deepseek_v3", "all-linear")
    (forward,), recorder = record(wrapped, Want(router_inputs=True), input_ids=IDS)
    for found in recorder.layers:
        gate = found.parts.router
        a, b = (gate.get_submodule(f"{part}.default").weight.double() for part in ("lora_A", "lora_B"))
        weight = gate.base_layer.weight.double() + gate.scaling["default"] * b @ a
        expected = torch.from_numpy(forward.router_inputs[found.layer]).double() @ weight.T
        logits = forward.routing[found.layer].logits
        np.testing.assert_allclose(logits, expected.numpy(), rtol=1e-4, atol=1e-5)
        assert not np.allclose(logits, (expected - expected + _plain(forward, gate, found)).numpy(), atol=1e-3)


def _plain(forward, gate, found):
    return torch.from_numpy(forward.router_inputs[found.layer]).double() @ gate.base_layer.weight.double().T


@torch.no_grad()
def test_outputs_are_those_of_the_adapted_experts():
    """By hand: each chosen expert alone, with merged weights."""
    wrapped, _model = adapted("qwen3_moe", "router and experts")
    (forward,), _ = record(wrapped, Want(outputs=True), input_ids=IDS)
    merged = wrapped.merge_and_unload()
    (again,), _ = record(merged, Want(outputs=True), input_ids=IDS)
    for layer, routing in forward.routing.items():
        assert np.array_equal(routing.experts, again.routing[layer].experts)
        np.testing.assert_allclose(routing.outputs, again.routing[layer].outputs, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(routing.logits, again.routing[layer].logits, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_an_adapter_that_comes_after_the_first_recording_is_seen():
    model = build("deepseek_v3")
    before = self_test(model)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules="all-linear")).eval()
    after = self_test(wrapped)
    assert after is not before
    assert all(type(r.found.parts.router).__name__ == "ParamWrapper" for r in after.layers)
    back = wrapped.unload()
    assert all(type(r.found.parts.router).__name__ == "DeepseekV3TopkRouter" for r in self_test(back).layers)


@pytest.mark.parametrize("adapter", ["all-linear", "saved router", "saved block"])
@torch.no_grad()
def test_an_adapter_that_is_switched_off(adapter):
    wrapped, _model = adapted("qwen3_moe", adapter)
    with wrapped.disable_adapter(), received(wrapped) as calls:
        (forward,), _ = record(wrapped, Want(), input_ids=IDS)
        same([forward], calls)
    (plain,), _ = record(build("qwen3_moe"), Want(), input_ids=IDS)
    for layer, routing in plain.routing.items():
        assert np.array_equal(routing.experts, forward.routing[layer].experts)
        np.testing.assert_allclose(routing.logits, forward.routing[layer].logits, rtol=1e-4, atol=1e-5)


SPECS = (
    *("ban:layer=1,expert=3", "force:layer=1,expert=3", "top_k:k=1", "top_p:p=0.4", "noise:tau=1"),
    *("bias:layer=1,expert=3,delta=30", "shrink:to=1", "capacity:gamma=1", "boost:layer=1,expert=3,factor=8"),
)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("adapter", ["all-linear", "saved router"])
@torch.no_grad()
def test_interventions_edit_the_adapted_router(adapter, spec):
    """As they do in the same model with the adapter merged into its weights."""
    wrapped, _ = adapted("deepseek_v3", adapter)
    with probes.steer(wrapped, [spec]):
        (forward,), _ = record(wrapped, Want(norms=False), input_ids=IDS)
        logits = wrapped(input_ids=IDS).logits
    merged = wrapped.merge_and_unload()
    with probes.steer(merged, [spec]):
        (again,), _ = record(merged, Want(norms=False), input_ids=IDS)
        torch.testing.assert_close(merged(input_ids=IDS).logits, logits, rtol=1e-4, atol=1e-4)
    for layer, routing in forward.routing.items():
        assert np.array_equal(np.sort(routing.experts, 1), np.sort(again.routing[layer].experts, 1))


@torch.no_grad()
def test_entropy_in_a_trace_is_by_the_routers_own_rule(tokenizer, tmp_path):
    """Sigmoid scores over their sum, by hand from the stored logits."""
    import duckdb

    from probes.families import family
    from probes.families.tiny import tiny_model

    torch.manual_seed(0)
    tiny = {**family("deepseek_v3").tiny, "vocab_size": 400}
    from dataclasses import replace

    model = tiny_model(replace(family("deepseek_v3"), tiny=tiny))
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules="all-linear")).eval()
    prompts = tmp_path / "p.txt"
    prompts.write_text("the quick brown fox")
    recorded = probes.record(wrapped, prompts, tmp_path / "t.duckdb", tokenizer=tokenizer, progress=False)
    con = duckdb.connect(str(tmp_path / "t.duckdb"), read_only=True)
    assert con.execute("SELECT DISTINCT gating FROM layers").fetchall() == [("sigmoid: sigmoid_bias",)]
    assert recorded.notes == []
    with capture(wrapped, Want()) as recorder:
        wrapped(input_ids=torch.tensor([tokenizer("the quick brown fox")["input_ids"]]))
        (forward,) = recorder.take()
    for layer, position, entropy in con.execute("SELECT layer, position, entropy FROM routing").fetchall():
        scores = 1 / (1 + np.exp(-forward.routing[layer].logits[position].astype(np.float64)))
        p = scores / scores.sum()
        assert entropy == pytest.approx(-(p * np.log(p)).sum(), rel=1e-4)


def test_weights_of_an_adapted_router_are_not_compared_without_the_adapter():
    from probes.weights import router_rows

    wrapped, _ = adapted("deepseek_v3", "all-linear")
    with pytest.raises(ProbeError, match="an adapter is around the router of layer 1; merge it"):
        router_rows(discover(wrapped)[0])
    merged = wrapped.merge_and_unload()
    assert router_rows(discover(merged)[0]).shape == (8, 32)


def test_dropout_of_an_adapter_in_training_mode_is_refused():
    wrapped = peft.get_peft_model(build("qwen3_moe"), peft.LoraConfig(r=4, target_modules=["o_proj"], lora_dropout=0.1))
    with pytest.raises(ProbeError, match=r"dropout in training mode .* call model\.eval\(\)"), capture(wrapped):
        pass
