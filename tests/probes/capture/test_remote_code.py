"""Code we do not know: what its gate returns is told apart by dtype and shape."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from probes.capture import Want, capture, self_test


class Gate(nn.Module):
    """Returns its tensors in the order a test asks for."""

    def __init__(self, order):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 8))
        self.top_k = 2
        self.order = order

    def forward(self, hidden):
        logits = hidden @ self.weight.T
        probabilities = logits.softmax(-1)
        weights, ids = probabilities.topk(2)
        found = {"logits": logits, "weights": weights, "ids": ids, "loss": None, "probabilities": probabilities}
        return tuple(found[name] for name in self.order)


class Block(nn.Module):
    def __init__(self, order):
        super().__init__()
        self.gate = nn.Linear(8, 4, bias=False) if order == "linear" else Gate(order)
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))

    def forward(self, hidden):
        flat = hidden.reshape(-1, 8)
        output = self.gate(flat)
        logits = output if isinstance(output, torch.Tensor) else flat @ self.gate.weight.T
        weights, ids = logits.softmax(-1).topk(2)
        outputs = torch.stack([expert(flat) for expert in self.experts], dim=1)
        chosen = outputs.gather(1, ids[..., None].expand(-1, -1, 8))
        return hidden + (chosen * weights[..., None]).sum(1).view_as(hidden)


class RemoteModel(nn.Module):
    def __init__(self, order):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(50, 8)
        self.layers = nn.ModuleList([nn.ModuleDict({"mlp": Block(order)}) for _ in range(2)])
        self.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(), _name_or_path="remote")

    def get_input_embeddings(self):
        return self.embed

    def forward(self, input_ids):
        hidden = self.embed(input_ids)
        for layer in self.layers:
            hidden = layer["mlp"](hidden)
        return hidden


@pytest.mark.parametrize(
    ("order", "capability", "words"),
    [
        (("logits", "weights", "ids"), "logits, ids, weights", ""),
        (("ids", "weights", "loss"), "ids, weights", "no logits"),
        (("ids", "weights", "logits"), "logits, ids, weights", ""),
        (("probabilities", "weights", "ids"), "ids, weights", "probabilities"),
        ("linear", "logits", "no ids"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else None,
)
def test_what_an_unknown_gate_gives(order, capability, words):
    report = self_test(RemoteModel(order).eval())
    assert {r.capability for r in report.layers} == {capability}
    assert words in " ".join(word for r in report.layers for word in r.words)
    assert any("not one we know" in note for note in report.notes)


@torch.no_grad()
def test_the_rule_of_an_unknown_model_is_found_by_trying():
    model = RemoteModel(("logits", "weights", "ids")).eval()
    with capture(model, Want()) as recorder:
        model(input_ids=torch.arange(10).view(2, 5))
        (forward,) = recorder.take()
    assert {r.gating for r in recorder.routers} == {"softmax_topk"}
    assert {p.get("normalise", False) for p in recorder.gating_parameters.values()} == {False}
    assert forward.routing[1].experts.shape == (10, 2)
    assert forward.routing[1].output_norm is None
