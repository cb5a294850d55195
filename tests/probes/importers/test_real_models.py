"""Routing of real transformers models, written in other orders, comes back as the models' own routers gave it."""

import json

import numpy as np
import pytest
import torch

from probes.capture import Want, capture
from probes.capture.discovery import discover
from probes.errors import ProbeError
from probes.families import family
from probes.families.tiny import tiny_model
from probes.importers.npz import read_npz
from probes.ingest import import_npz
from store.trace import open_trace

TOKENS = 60
FAMILIES = ("mixtral", "qwen3_moe", "gpt_oss", "deepseek_v2", "deepseek_v3", "glm4_moe", "deepseek_v4", "flint")


@pytest.fixture(scope="module", params=FAMILIES)
def routed(request):
    """What the routers of a tiny model of the family return, by a plain hook, and what the recorder makes of it."""
    known = family(request.param)
    model = tiny_model(known)
    given = {}
    layers = {found.layer: found for found in discover(model)}

    def hook(layer):
        return lambda module, args, output: given.__setitem__(layer, [value.detach() for value in output[:3]])

    handles = [found.parts.router.register_forward_hook(hook(layer)) for layer, found in layers.items()]
    ids = torch.arange(3, 3 + TOKENS).reshape(1, -1)
    with torch.no_grad(), capture(model, Want()) as recorder:
        model(input_ids=ids)
        (forward,) = recorder.take()
    for handle in handles:
        handle.remove()
    config = model.config.to_dict()
    order = sorted(layers)
    logits, weights, experts = (
        np.stack([given[layer][i].float().numpy() for layer in order], axis=1) for i in (0, 1, 2)
    )
    hashed = [i for i, layer in enumerate(order) if hasattr(layers[layer].parts.router, "tid2eid")]
    recorded = np.stack([forward.routing[layer].experts for layer in order], axis=1)
    return {
        "name": known.name, "config": config, "layer": np.array(order), "logits": logits, "weights": weights,
        "experts": experts.astype(int), "recorded": recorded, "hashed": hashed,
    }  # fmt: skip


def by_weight(routed):
    order = np.argsort(-routed["weights"], axis=2, kind="stable")
    return np.take_along_axis(routed["experts"], order, 2), np.take_along_axis(routed["weights"], order, 2)


def save(path, routed, *names, **more):
    np.savez(path, layer=routed["layer"], sequence_id=np.zeros(TOKENS, int), **{n: routed[n] for n in names}, **more)
    return path


def scrambled(routed, how):
    """Ids and weights in order of number, or in no order."""
    keys = routed["experts"] if how == "number" else np.random.default_rng(1).random(routed["experts"].shape)
    order = np.argsort(keys, axis=2)
    return {name: np.take_along_axis(routed[name], order, 2) for name in ("experts", "weights")}


def test_the_recorder_gives_every_family_in_descending_weight(routed):
    assert np.array_equal(routed["recorded"], by_weight(routed)[0])


@pytest.mark.parametrize("how", ["number", "none"])
def test_weights_put_scrambled_slots_in_order(routed, how, tmp_path):
    path = save(tmp_path / "r.npz", routed, "logits", **scrambled(routed, how))
    found = read_npz(path, config=routed["config"])
    ids, weights = by_weight(routed)
    assert np.array_equal(found.arrays.experts, ids)
    assert np.array_equal(found.arrays.experts, routed["recorded"])
    assert np.array_equal(found.arrays.weights, weights)


@pytest.mark.parametrize("how", ["number", "none"])
def test_logits_put_scrambled_slots_in_order(routed, how, tmp_path):
    path = save(tmp_path / "r.npz", routed, "logits", experts=scrambled(routed, how)["experts"])
    found = read_npz(path, config=routed["config"])
    assert np.array_equal(found.arrays.experts, by_weight(routed)[0])


def test_logits_alone_give_the_models_choice_or_a_refusal(routed, tmp_path):
    path = save(tmp_path / "r.npz", routed, "logits", k=routed["experts"].shape[2])
    if routed["name"] in ("deepseek_v3", "glm4_moe", "deepseek_v4"):
        with pytest.raises(ProbeError, match=r"e_score_correction_bias.*Put the chosen 'experts' in the file"):
            read_npz(path, config=routed["config"])
        return
    found = read_npz(path, config=routed["config"])
    assert np.array_equal(found.arrays.experts, by_weight(routed)[0])


def scores(routed):
    """Scores that sum to 1, written out here once more."""
    z = torch.from_numpy(routed["logits"]).double()
    kind = {"deepseek_v3": torch.sigmoid, "glm4_moe": torch.sigmoid, "flint": torch.sigmoid}.get(routed["name"])
    if routed["name"] == "deepseek_v4":
        kind = lambda x: torch.sqrt(torch.nn.functional.softplus(x))  # noqa: E731
    return torch.softmax(z, -1).numpy() if kind is None else (kind(z) / kind(z).sum(-1, keepdim=True)).numpy()


def test_entropy_and_margin_are_of_the_familys_scores(routed, tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps(routed["config"], default=str), encoding="utf-8")
    path = save(tmp_path / "r.npz", routed, "logits", **scrambled(routed, "number"))
    import_npz(path, tmp_path / "t.duckdb", model_config=config)
    found = np.array(
        open_trace(tmp_path / "t.duckdb")
        .sql("SELECT entropy, margin FROM routing ORDER BY position, layer")[["entropy", "margin"]]
        .to_numpy(),
        float,
    ).reshape(TOKENS, -1, 2)
    p = scores(routed)
    assert np.allclose(found[..., 0], -(p * np.log(p)).sum(-1), atol=1e-5)
    mask = np.zeros(p.shape, bool)
    np.put_along_axis(mask, routed["experts"], True, axis=2)
    margin = np.where(mask, p, np.inf).min(-1) - np.where(mask, -np.inf, p).max(-1)
    assert np.allclose(found[..., 1], margin, atol=1e-5)
