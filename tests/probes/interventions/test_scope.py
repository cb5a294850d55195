"""Scope: within it everything is as if all were meant, outside it nothing has changed. And in every kind of pass."""

import numpy as np
import pytest
import torch

import probes
from probes.capture import Want, capture
from probes.interventions import parse
from tests.probes.interventions.recorded import CASES, PER_TOKEN, E

IDS = torch.tensor([[5, 9, 17, 33, 2, 8, 100, 200], [41, 7, 7, 19, 23, 4, 9, 300]])
MASK = torch.tensor([[1] * 8, [0] * 3 + [1] * 5])
POSITION = torch.where(MASK.bool(), MASK.cumsum(1) - 1, -1).numpy().reshape(-1)
SCOPES = {
    "positions": ({"positions": "2-4"}, (POSITION >= 2) & (POSITION <= 4)),
    "last": ({"last": 2}, np.tile(np.arange(8) >= 6, 2)),
    "sequences": ({"sequence": 1}, np.arange(16) >= 8),
    "tokens": ({"tokens": [9, 300]}, np.isin(IDS.numpy().reshape(-1), [9, 300])),
}


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def routing(model, specs, layer=0, **inputs):
    """Dense weights [T, E], 0 where an expert was not chosen, of the first layer; and the norms of the outputs."""
    with probes.steer(model, specs), capture(model, Want()) as recorder:
        model(**(inputs or {"input_ids": IDS, "attention_mask": MASK}))
    found = recorder.take()[0].routing[layer]
    out = np.zeros((2, len(found.experts), E))
    rows, slots = np.nonzero(found.experts >= 0)
    for at, values in enumerate((found.weights, found.output_norm)):
        out[at, rows, found.experts[rows, slots]] = values[rows, slots]
    return out


def first_layer(name, **scope):
    """The case's spec, in layer 0 alone; options that name layers of their own keep only that one."""
    spec = parse(CASES[name].spec).as_dict()
    tables = {
        key: {layer: row for layer, row in value.items() if int(layer) == 0}
        for key, value in spec.items()
        if isinstance(value, dict)
    }
    return {**spec, **tables, "layers": [0], **scope}


def same(first, second):
    np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in PER_TOKEN if name != "top_k"])
@pytest.mark.parametrize("scope", SCOPES)
def test_only_tokens_in_scope_are_steered(name, scope, sample):
    words, inside = SCOPES[scope]
    inside = inside & (MASK.numpy().reshape(-1) > 0)
    plain, full = routing(sample[0], []), routing(sample[0], first_layer(name))
    some = routing(sample[0], first_layer(name, **words))
    real = MASK.numpy().reshape(-1) > 0
    same(some[:, inside], full[:, inside])
    same(some[:, ~inside & real], plain[:, ~inside & real])


def test_scopes_do_change_something(sample):
    """The cases above are no comparison of equals."""
    plain = routing(sample[0], [])
    for name in ("temperature", "mask_top", "top_p", "norm_choice", "output"):
        some = routing(sample[0], first_layer(name, positions="0-4"))
        assert not np.allclose(some, plain), name


def test_layers_and_experts(sample):
    plain, some = ([routing(sample[0], spec, layer) for layer in range(3)] for spec in ([], "ban:expert=1.3+2.5+2.6"))
    same(some[0], plain[0])
    assert (plain[1][0][:, 3] > 0).any()
    assert not some[1][0][:, 3].any()
    assert not some[2][0][:, 5:7].any()


def test_a_share_of_the_tokens(sample):
    """Which tokens is drawn once per pass, the same in every layer, and again with the same seed."""
    ids = torch.randint(5, 900, (4, 200), generator=torch.Generator().manual_seed(0))
    hit = []
    for seed in (1, 1, 2):
        found = routing(sample[0], f"force:expert=3,probability=0.3,seed={seed}", input_ids=ids)[0]
        hit.append(found[:, 3] > 0)
    assert (hit[0] == hit[1]).all()
    assert (hit[0] != hit[2]).any()
    by_chance = (routing(sample[0], [], input_ids=ids)[0][:, 3] > 0).mean()
    assert hit[0].mean() == pytest.approx(0.3 + 0.7 * by_chance, abs=0.06)
    later = routing(sample[0], "force:expert=3,probability=0.3,seed=1", layer=2, input_ids=ids)[0]
    forced = (hit[0]) & ~(routing(sample[0], [], input_ids=ids)[0][:, 3] > 0)
    assert later[forced, 3].all()


def whole_and_stepwise(model, specs):
    """(layer, sequence, position) -> dense weights: while generating from a padded batch, and in one full pass."""
    with probes.steer(model, specs), capture(model, Want(norms=False)) as recorder:
        made = model.generate(IDS, attention_mask=MASK, max_new_tokens=6, min_new_tokens=6, do_sample=False)
        stepwise = recorder.take()
        full = torch.cat([MASK, torch.ones(2, made.shape[1] - MASK.shape[1], dtype=torch.long)], 1)
        model(made, attention_mask=full)
        whole = recorder.take()
    return placed(stepwise), placed(whole)


def placed(forwards):
    out = {}
    for forward in forwards:
        for layer, found in forward.routing.items():
            for row in np.flatnonzero(forward.mask.reshape(-1)):
                weights = np.zeros(E)
                ids = found.experts[row]
                weights[ids[ids >= 0]] = found.weights[row][ids >= 0]
                out[layer, row // forward.length, forward.position.reshape(-1)[row]] = weights
    return out


@pytest.mark.parametrize("name", PER_TOKEN)
def test_decoding_is_steered_as_one_full_pass(name, sample):
    stepwise, whole = whole_and_stepwise(sample[0], CASES[name].spec)
    assert len(stepwise) == 4 * (8 + 5 + 2 * 5)
    off = [key for key, weights in stepwise.items() if not np.allclose(weights, whole[key], atol=1e-4)]
    # Rounding may turn a choice between two experts that nearly tie, and what follows from it.
    assert len(off) <= 0.02 * len(stepwise), off


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_one_phase_alone(phase, sample):
    with probes.steer(sample[0], f"force:layer=0,expert=3,phase={phase}"), capture(sample[0], Want()) as recorder:
        sample[0].generate(IDS, attention_mask=MASK, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    for forward in recorder.take():
        has = (forward.routing[0].experts == 3).any(-1)[forward.mask.reshape(-1)]
        assert has.all() == (forward.phase == phase)


def test_frequencies_prune_only_while_reading(sample):
    with probes.steer(sample[0], "frequency_prune:alpha=3"), capture(sample[0], Want()) as recorder:
        sample[0].generate(IDS, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    first, *later = recorder.take()
    assert (first.routing[0].experts < 0).any()
    assert not any((forward.routing[0].experts < 0).any() for forward in later)


class TestOrder:
    def test_what_is_dropped_cannot_be_boosted(self, sample):
        """Expert by expert the order counts: a boost may decide who is kept."""
        plain = routing(sample[0], [])[0]
        expert = np.bincount(np.argsort(-plain, axis=-1)[:, 1]).argmax()  # the most frequent second choice
        boost, shrink = f"boost:layer=0,expert={expert},factor=9", "shrink:layer=0,to=1"
        first, second = routing(sample[0], [boost, shrink])[0], routing(sample[0], [shrink, boost])[0]
        heaviest = plain.argmax(-1) == expert
        assert not np.allclose(first, second)
        same(first[heaviest], second[heaviest])

    def test_bans_before_others_that_choose(self, sample):
        both = routing(sample[0], ["ban:layer=0,expert=3", "mask_top:layer=0,r=2"])[0]
        plain = routing(sample[0], "top_k:layer=0,k=16")[0]
        plain[:, 3] = -1
        best = np.argsort(-plain, axis=-1)[:, 2:4]
        assert (np.sort(np.argsort(-both, axis=-1)[:, :2]) == np.sort(best)).all()
        assert not routing(sample[0], ["random:layer=0", "ban:layer=0,expert=3"])[0][:, 3].any()

    def test_outputs_one_after_another(self, sample):
        scale, zero = "output:layer=0,expert=3,mode=scale,factor=2", "output:layer=0,expert=3"
        for specs, factor in (([scale, scale], 4), ([scale, zero], 0), ([zero, scale], 0)):
            same(routing(sample[0], specs)[1][:, 3], routing(sample[0], [])[1][:, 3] * factor)

    def test_an_intervention_before_and_one_after_the_choice(self, sample):
        """Where they act decides, not who is named first."""
        specs = ["boost:layer=0,expert=3,factor=2", "temperature:layer=0,tau=2"]
        same(routing(sample[0], specs), routing(sample[0], specs[::-1]))
