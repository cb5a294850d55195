"""Weights that are elsewhere while the model does not run."""

import pytest
import torch
from models import TOKENS, build, ids_of, record, rows, same_routing

from probes.capture import Want

accelerate = pytest.importorskip("accelerate")


@pytest.mark.parametrize("name", ["ernie4_5_moe", "gemma4"])
@torch.no_grad()
def test_offloaded_weights_give_the_same_routing(name):
    """Both have gating parameters that are nn.Parameters, and those go too."""
    ids = ids_of(TOKENS[:6])
    (here,), _ = record(build(name), input_ids=ids)
    model = build(name)
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    assert next(model.parameters()).device.type == "meta"
    (away,), recorder = record(model, Want(), input_ids=ids)
    assert {r.recomputed for r in recorder.report.layers} == {"ids and weights"}
    assert any("offloaded" in note for note in recorder.report.notes)
    for layer in here.routing:
        same_routing(rows(here, layer, 0), rows(away, layer, 0))
