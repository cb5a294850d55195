"""Every intervention, recorded: what its declaration says a recording shows is there."""

import json

import numpy as np
import pytest
import torch

import probes
from probes.capture import Want, capture
from probes.interventions import interventions
from probes.interventions.catalogue.output import from_clusters, from_moments
from probes.recording.record import record
from probes.sample import sample_path
from store.trace import open_trace
from tests.probes.interventions.recorded import CASES, E

COLUMNS = ("experts", "weights", "logits", "output_norm")
SEQUENCES = 12
IDS = torch.tensor([[5, 9, 17, 33, 2, 8, 100, 200], [41, 7, 7, 19, 23, 4, 9, 300]])


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    """A few prompts of every label, all of which fit one pass."""
    lines = (sample_path() / "prompts.jsonl").read_text("utf-8").splitlines()
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    path.write_text("\n".join(lines[:: len(lines) // SEQUENCES][:SEQUENCES]))
    return path


@pytest.fixture(scope="module")
def recorded(sample, prompts, tmp_path_factory):
    """spec -> arrays of a run under it; all runs are of one trace."""
    model, tokenizer = sample
    path, known = tmp_path_factory.mktemp("traces") / "t.duckdb", {}

    def run(spec):
        key = json.dumps(spec)
        if key not in known:
            options = {"tokenizer": tokenizer, "batch_size": SEQUENCES, "max_length": 96}
            done = record(model, prompts, path, interventions=spec, baseline=1 if spec else None, **options)
            known[key] = (done.run_id, arrays(path, done.run_id))
        return known[key]

    run(None)
    return run


def arrays(path, run_id):
    chunks = list(open_trace(path).chunks(run_id, columns=COLUMNS))
    return {key: np.concatenate([c[key] for c in chunks]) for key in (*COLUMNS, "sequence_id", "position")}


@pytest.mark.parametrize("name", CASES)
def test_a_recording_shows_what_the_declaration_says(name, recorded):
    plain = dict(recorded(None)[1])
    plain["every"] = recorded("top_k:k=16")[1]
    CASES[name].check(plain, recorded(CASES[name].spec)[1])


@pytest.mark.parametrize("name", CASES)
def test_the_checks_can_fail(name, recorded):
    """A recording without the intervention does not pass."""
    plain = dict(recorded(None)[1])
    plain["every"] = recorded("top_k:k=16")[1]
    with pytest.raises(AssertionError):
        CASES[name].check(plain, plain)


def test_every_intervention_is_checked():
    assert {name.split()[0] for name in CASES} == set(interventions())


@pytest.mark.parametrize("name", sorted(interventions()))
def test_declarations_are_complete(name):
    declared = interventions()[name]
    for words in (declared.title, declared.does, declared.formula, declared.source, declared.shows):
        assert words
        assert not words.endswith(".")
    assert declared.stages
    assert set(declared.neutral or {}) <= {option.name for option in declared.options}
    assert all(option.help for option in declared.options)


NEUTRAL = sorted(name for name, declared in interventions().items() if declared.neutral is not None)
ALSO = ["shrink:to=2", "top_k:k=2", "capacity:gamma=8", "capacity:gamma=8,mode=reroute,order=last", "prune:keep=0-15"]


def neutral(name):
    named = {"experts": [3, 9]} if interventions()[name].named == "experts" else {}
    return {"name": name, **interventions()[name].neutral, **named}


@pytest.mark.parametrize("spec", [*map(neutral, NEUTRAL), *ALSO], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_neutral_options_change_no_bit(spec, dtype, sample, monkeypatch):
    """With the engine made to carry them out: not because it leaves them out."""
    model = sample[0]
    mask = torch.ones_like(IDS)
    mask[1, :3] = 0
    monkeypatch.setattr("probes.interventions.plan.is_neutral", lambda spec: False)
    model.to(dtype)
    try:
        with torch.no_grad():
            plain = model(IDS, attention_mask=mask).logits
            said = model.generate(IDS, attention_mask=mask, max_new_tokens=4, do_sample=False)
            with probes.steer(model, spec):
                assert torch.equal(model(IDS, attention_mask=mask).logits, plain)
                again = model.generate(IDS, attention_mask=mask, max_new_tokens=4, do_sample=False)
                assert torch.equal(again, said)
    finally:
        model.to(torch.float32)


def test_rerouting_in_order_is_what_the_metric_counts(sample):
    from probes import metrics

    with torch.no_grad(), capture(sample[0], Want()) as recorder:
        sample[0](IDS)
        with_room = steered(sample[0], "capacity:gamma=0.9,mode=reroute,order=first")
    routing = recorder.take()[0].routing[0]
    counted = metrics.capacity(routing.experts, num_experts=E, gamma=0.9, mode="reroute", logits=routing.logits)
    placed = (with_room.experts >= 0).sum()
    assert placed / (counted.capacity[0] * E) == pytest.approx(counted.utilization_after[0])
    assert np.bincount(with_room.experts[with_room.experts >= 0], minlength=E).max() <= counted.capacity[0]


@pytest.mark.parametrize("order", ["first", "last"])
def test_a_full_expert_keeps_the_first_or_the_last(order, sample):
    """All tokens are sent to expert 3: those at the right end keep it."""
    dropped = steered(sample[0], ["force:layer=0,expert=3", f"capacity:layer=0,gamma=0.5,order={order}"])
    has = (dropped.experts == 3).any(-1).nonzero()[0]
    limit = 1  # ceil(0.5 · 2 · 16 / 16)
    assert has.tolist() == (list(range(limit)) if order == "first" else list(range(16 - limit, 16)))


def test_padding_takes_no_place(sample):
    """The same tokens, alone and beside padding, are dropped alike."""
    model, row = sample[0], IDS[:1]
    padded = torch.cat([torch.zeros(1, 8, dtype=torch.long), row], 1)
    mask = (torch.arange(16) >= 8).long()[None]
    for spec in ("capacity:gamma=0.6,layer=0", "expert_choice:layer=0", "frequency_prune:alpha=1.5,layer=0"):
        alone = steered(model, spec, input_ids=row)
        beside = steered(model, spec, input_ids=padded, attention_mask=mask)
        assert [set(r) - {-1} for r in beside.experts[8:].tolist()] == [set(r) - {-1} for r in alone.experts.tolist()]


def steered(model, specs, layer=0, **inputs):
    with torch.no_grad(), probes.steer(model, specs), capture(model, Want()) as recorder:
        model(**(inputs or {"input_ids": IDS}))
    return recorder.take()[0].routing[layer]


class TestBuilders:
    def test_mean_outputs_of_a_recording(self, sample):
        model = sample[0]
        with torch.no_grad(), capture(model, Want(moments=True)) as recorder:
            model(IDS)
        spec = from_moments(recorder.moments, [(0, e) for e in np.flatnonzero(recorder.moments[0][0])])
        chosen = steered(model, spec)
        norms = np.linalg.norm(recorder.moments[0][1], axis=1)
        np.testing.assert_allclose(chosen.output_norm, norms[chosen.experts], rtol=1e-4)

    def test_an_expert_never_chosen_has_no_mean(self, sample):
        with pytest.raises(probes.errors.UsageError, match="never chosen"):
            from_moments({0: (np.zeros(4), np.zeros((4, 8)), None)}, [(0, 1)])

    def test_a_cluster_answers_with_its_weighted_mean(self, sample):
        """Against the experts' own outputs, all of which are recorded with k = E."""
        model = sample[0]
        clusters = {0: [0, 0, 0, *range(1, 14)]}
        with torch.no_grad(), probes.steer(model, "top_k:layer=0,k=16"), capture(model, Want(outputs=True)) as recorder:
            model(IDS)
        every = recorder.take()[0].routing[0]
        own = np.take_along_axis(every.outputs, np.argsort(every.experts, 1)[..., None], 1)
        merged = np.tensordot(own[:, :3], [1 / 6, 2 / 6, 3 / 6], (1, 0))
        spec = from_clusters(clusters, {0: [1, 2, 3, *[1] * 13]})
        specs, want = ["force:layer=0,expert=1", spec], Want(outputs=True)
        with torch.no_grad(), probes.steer(model, specs), capture(model, want) as recorder:
            model(IDS)
        found = recorder.take()[0].routing[0]
        at = found.experts == 1
        np.testing.assert_allclose(found.outputs[at], merged[at.any(1)], rtol=1e-3, atol=1e-4)
        others = found.experts > 2
        rows = others.nonzero()[0]
        np.testing.assert_allclose(found.outputs[others], own[rows, found.experts[others]], rtol=1e-3, atol=1e-4)
