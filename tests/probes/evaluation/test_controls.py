"""Controls of the same load: against enumeration by hand over count tables, and counted by plain hooks on a model."""

import itertools
import json
import re

import numpy as np
import pytest

import probes
from probes.errors import UsageError
from probes.evaluation import evaluate
from probes.evaluation.arms import arm_of, experts_in
from probes.evaluation.controlled import Ask
from probes.evaluation.drawing import CHOICE, COUNT, LOAD, drawn
from probes.evaluation.loads import acted_on, count
from probes.evaluation.matching import same_load
from probes.interventions import parse
from probes.sample import sample_path

SUMS, CHOICES = sample_path() / "tasks/sums.jsonl", sample_path() / "tasks/facts_choice.jsonl"
TABLE = np.array([40, 30, 21, 19, 11, 9, 8, 2, 0, 0])
ROUTERS = {0: 10, 1: 10}


def brute(named, pool, counts, tolerance, sizes):
    """Every set of these sizes within the tolerance, by trying all."""
    target = sum(counts[e] for e in named)
    sets = (s for n in sizes for s in itertools.combinations(pool, n) if set(s) != set(named))
    return {s for s in sets if abs(sum(counts[e] for e in s) - target) <= tolerance * target}


@pytest.mark.parametrize("named", [(0,), (2,), (3, 4), (1, 6), (5, 7), (8,), (2, 3, 5)])
@pytest.mark.parametrize("tolerance", [0.0, 0.1, 0.3])
def test_sets_of_the_same_load_are_those_of_enumeration(named, tolerance):
    pool = [e for e in range(10) if e not in named]
    found = same_load(named, pool, TABLE, tolerance, np.random.default_rng(0))
    same = brute(named, pool, TABLE, tolerance, [len(named)])
    if same:
        assert set(found.fitting) == same
        return
    by_size = {n: brute(named, pool, TABLE, tolerance, [n]) for n in range(1, len(pool) + 1)}
    distance = min((abs(n - len(named)) for n, some in by_size.items() if some), default=None)
    if distance is None:
        assert not found.fitting
        assert found.every
        nearest = min(
            abs(sum(TABLE[list(s)]) - sum(TABLE[list(named)])) for n in by_size for s in itertools.combinations(pool, n)
        )
        assert abs(sum(TABLE[list(found.nearest)]) - sum(TABLE[list(named)])) == nearest
    else:
        assert set(found.fitting) == set().union(*(s for n, s in by_size.items() if abs(n - len(named)) == distance))


def test_many_experts_are_searched_and_fit():
    counts = np.random.default_rng(1).pareto(1.5, 256).__mul__(1000).astype(int)
    named = tuple(np.argsort(-counts)[20:28].tolist())
    pool = [e for e in range(256) if e not in named]
    found = same_load(named, pool, counts, 0.05, np.random.default_rng(0))
    assert len(found.fitting) >= 50
    assert not found.every
    for one in found.fitting:
        assert len(set(one)) == 8
        assert not set(one) & set(named)
        assert abs(counts[list(one)].sum() - counts[list(named)].sum()) <= 0.05 * counts[list(named)].sum()


def test_an_expert_without_a_peer_has_no_control_and_a_reason():
    counts = {0: np.array([77, 5, 4, 4, 3, 3, 2, 1, 1, 0])}
    found = drawn(arm_of("ban:layer=0,expert=0"), ROUTERS, 5, counts=counts)
    assert (found.kind, found.arms) == (LOAD, [])
    assert "no load-matched control exists within 10 % of its load" in found.reason
    assert "layer 0, expert 0: 77.0 % of the assignments; the nearest other set has 23.0 %" in found.reason


def test_draws_are_different_seeded_and_never_the_original():
    arm, counts = arm_of("ban:layer=0,expert=3"), {0: TABLE}
    found = drawn(arm, ROUTERS, 50, counts=counts)
    # 19 ± 1.9: expert 2 has 21, which is too much; pairs that come to 18, 19 or 20 are 11+9, 11+8 and 9+8+2's none.
    assert {sets[0] for sets in found.sets} == brute((3,), [0, 1, 2, 4, 5, 6, 7, 8, 9], TABLE, 0.1, [2])
    assert len({one.key for one in found.arms}) == len(found.arms) == len(found.sets)
    assert found.reason == f"only {len(found.arms)} different load-matched sets exist"
    assert drawn(arm, ROUTERS, 2, counts=counts) == drawn(arm, ROUTERS, 2, counts=counts)
    kept = drawn(arm_of("prune:layer=0,keep=0+1+5+6+7+8+9"), ROUTERS, 200, counts=counts)
    assert all(len(sets[0]) == 7 and set(sets[0]) != {0, 1, 5, 6, 7, 8, 9} for sets in kept.sets)
    assert kept.arms
    by_count = drawn(arm_of("ban:layer=0,expert=0-7"), ROUTERS, 60)
    assert (by_count.kind, len(by_count.arms)) == (COUNT, 44)  # 45 sets of 8 of 10, without itself


@pytest.mark.parametrize(
    "given",
    [
        "ban:expert=0.3+0.4+1.1",
        "zero:expert=0.2",
        "boost:expert=0.3+0.4,factor=3",
        "bias:expert=0.5+1.2,delta=2",
        "steermoe:activate=0.3,deactivate=0.4+1.1",
        "output:expert=0.2+1.3,mode=scale,factor=0.5",
        "force:layer=1,expert=3",
        "reroute:layer=0,from=3,to=5",
        "ban:expert=0.4 + boost:expert=0.3+0.4",
    ],
)
def test_whatever_names_experts_is_matched_in_every_layer(given):
    counts = {0: TABLE, 1: np.array([20, 18, 19, 21, 22, 20, 19, 18, 21, 20])}
    arm = arm_of(given)
    found = drawn(arm, ROUTERS, 4, counts=counts, tolerance=0.25)
    assert found.kind == LOAD
    assert found.arms
    for control in found.arms:
        for before, after in zip(arm.specs, control.specs, strict=True):
            own, others = experts_in(before, ROUTERS), experts_in(after, ROUTERS)
            assert own.keys() == others.keys()
            for layer, named in own.items():
                load, other = (sum(counts[layer][e] for e in some) for some in (named, others[layer]))
                assert abs(other - load) <= 0.25 * load
                assert not set(named) & set(others[layer])
                assert after.options.get("to") not in others[layer]


def test_tables_and_sizes_that_are_set_keep_their_number():
    table = {"name": "output", "mode": "mean", "means": {"0": {"0": [1.0], "2": [2.0]}}}
    found = drawn(arm_of(table), ROUTERS, 3, counts={0: np.array([9, 9, 9, 9, 9, 9, 9, 9, 9, 9])})
    for control in found.arms:
        assert sorted(control.specs[0].options["means"]["0"].values()) == [[1.0], [2.0]]
    # One expert with 40: only sets of several reach it, and force may not name more than it does.
    assert not drawn(arm_of("force:layer=0,expert=0"), ROUTERS, 3, counts={0: TABLE}).arms
    assert drawn(arm_of("ban:layer=0,expert=0"), ROUTERS, 3, counts={0: TABLE}).arms


def test_what_cannot_be_carried_out_is_not_drawn():
    refused = []

    def refusal(specs):
        refused.append(specs)
        return "too few experts left"

    found = drawn(arm_of("ban:layer=0,expert=3"), ROUTERS, 3, counts={0: TABLE}, refusal=refusal)
    assert refused
    assert not found.arms
    assert "too few experts left" in found.reason
    assert drawn(arm_of("temperature:tau=2"), ROUTERS, 2).kind == CHOICE


def test_loads_are_of_the_tokens_acted_on():
    ids, start = np.array([5, 6, 7, 8, 9]), 3

    def rows(spec):
        return acted_on((parse(spec).scope,), (ids, start)).tolist()

    assert rows("random") == [True] * 5
    assert rows("random:phase=decode") == [False, False, False, True, True]
    assert rows("random:phase=prefill,position=1-9") == [False, True, True, False, False]
    assert rows("random:last=1") == [False, False, True, True, True]
    assert rows("random:token=6+9") == [False, True, False, False, True]


@pytest.fixture(scope="module")
def sample():
    return probes.load_model(sample_path() / "model")


def hooked(model, tokenizer, lines):
    """layer -> assignments [E] of text and target, by a plain hook on each experts module, one text at a time."""
    found, handles = {}, []
    for name, module in model.named_modules():
        if name.endswith("mlp.experts"):
            layer = int(re.search(r"layers\.(\d+)\.", name)[1])
            found[layer] = np.zeros(16, int)

            def keep(module, args, kwargs, layer=layer):
                ids = next(a for a in (*args, *kwargs.values()) if not a.is_floating_point())
                found[layer] += np.bincount(ids.reshape(-1).numpy(), minlength=16)

            handles.append(module.register_forward_pre_hook(keep, with_kwargs=True))
    for line in lines:
        model(**tokenizer(line["text"] + line["target"], return_tensors="pt"))
    for handle in handles:
        handle.remove()
    return found


@pytest.fixture(scope="module")
def found(sample, tmp_path_factory):
    model, tokenizer = sample
    arms = ["ban:layer=3,expert=14+5", "boost:layer=3,expert=14,factor=2", "prune:layer=3,keep=2-15", "top_k:k=1"]
    return evaluate(model, [SUMS, CHOICES], arms, tokenizer=tokenizer, limit=12, control_seeds=3, max_new_tokens=40)


def test_loads_are_those_that_plain_hooks_count(sample, found):
    lines = [json.loads(line) for line in SUMS.read_text("utf-8").splitlines()[:12]]
    counted = hooked(*sample, lines)
    (one,) = [m for m in found.controls if m.arm.startswith("ban") and m.task == "sums"]
    share = counted[3][[5, 14]].sum() / counted[3].sum()
    # What the model wrote is counted too; it writes the targets, whose last token is not read again.
    assert one.load == pytest.approx(share, rel=0.02)
    assert one.kind == LOAD
    assert one.arms
    for arm, loads in zip(one.arms, one.control_loads, strict=True):
        banned = experts_in(arm.specs[0], dict.fromkeys(range(4), 16))[3]
        assert not set(banned) & {5, 14}
        assert counted[3][list(banned)].sum() / counted[3].sum() == pytest.approx(share, rel=0.12)
        assert loads[0].share == pytest.approx(one.load, rel=0.1)


def test_each_task_has_controls_of_its_own(found):
    bans = {m.task: m for m in found.controls if m.arm.startswith("ban")}
    assert bans.keys() == {"sums", "facts_choice"}
    assert bans["sums"].load != bans["facts_choice"].load
    for task, one in bans.items():
        for arm in one.arms:
            assert arm.name.endswith(f", {task})")
            assert {item["task"] for item in found.items if item["arm"] == arm.name} == {task}
        row = found.row(task, one.arm, "perplexity")
        assert (row.controls, row.control_kind, row.load) == (len(one.arms), LOAD, one.load)
        assert row.control_load_min <= row.control_load_max


def test_every_kind_of_control_is_said(found):
    text = " ".join(found.notes)
    assert "load-matched control" in text
    assert "controls choose each token's experts at random" in text
    row = found.row("sums", "top_k:k=1", "kl")
    assert (row.control_kind, row.controls, row.load) == (CHOICE, 3, None)
    told = found.as_dict()["controls"]
    assert json.loads(json.dumps(told, allow_nan=False))
    assert all(one["reason"] or one["controls"] for one in told)


def test_controls_of_as_many_experts_say_what_they_carry(sample):
    model, tokenizer = sample
    settings = {"tokenizer": tokenizer, "limit": 6, "max_new_tokens": 40}
    arm = "ban:layers=3,experts=14+5"
    found = evaluate(model, SUMS, arm, control="count", control_seeds=2, **settings)
    row = found.row("sums", arm, "kl")
    assert (row.control_kind, row.controls) == (COUNT, 2)
    assert row.control_load_min < row.load / 2  # as many, and far less busy
    with pytest.raises(UsageError, match="did you mean 'count'"):
        evaluate(model, SUMS, arm, control="cuont", **settings)


def test_a_ban_without_a_peer_is_compared_with_nothing(sample):
    model, tokenizer = sample
    arm = "ban:layers=3,experts=5+10+14"
    found = evaluate(model, SUMS, arm, tokenizer=tokenizer, limit=6, max_new_tokens=40)
    row = found.row("sums", arm, "exact_match")
    assert (row.controls, row.control, row.beyond, row.p_control) == (0, None, None, None)
    assert "no load-matched control exists within 10 % of its load" in row.control_note
    from probes.evaluation.render import render

    assert row.control_note in render(found)


def test_an_interrupted_evaluation_keeps_its_loads(sample, tmp_path):
    model, tokenizer = sample
    settings = {"tokenizer": tokenizer, "limit": 6, "batch_size": 3, "max_new_tokens": 40, "control_seeds": 2}
    steps, arm, work = [], "ban:layer=3,expert=14+5", tmp_path / "work.jsonl"

    def stop(done, total, arm):
        steps.append(arm)
        if len(steps) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(model, SUMS, arm, resume=work, progress=stop, **settings)
    assert steps[:2] == ["baseline", "baseline"]
    again = evaluate(model, SUMS, arm, resume=work, **settings)
    assert again.rows == evaluate(model, SUMS, arm, **settings).rows
    ran = []
    evaluate(model, SUMS, arm, resume=work, progress=lambda d, t, arm: ran.append(arm), **settings)
    assert ran == [""]


def test_steered_models_have_loads_of_their_own(sample):
    model, tokenizer = sample
    text = (np.array(tokenizer("47+35=").input_ids), 99)
    whole = (parse("random").scope,)
    plain = count(model, tokenizer, [text], [whole])[whole]
    with probes.steer(model, "ban:layer=3,expert=14"):
        steered = count(model, tokenizer, [text], [whole])[whole]
    assert plain[3][14] > 0 == steered[3][14]
    assert plain[3].sum() == 2 * len(text[0])
    assert Ask(3, by="load").checked()


def test_groups_of_one_layer_get_sets_that_share_no_expert():
    """Two groups of a layer, each of one expert; by hand: 10 fits 10 and 10, 30 fits 30 alone."""
    counts = {0: np.array([10, 30, 10, 30, 10, 500, 500, 500, 500, 500])}
    arm = arm_of("ban:layer=0,expert=0 + boost:layer=0,expert=1")
    found = drawn(arm, ROUTERS, 9, counts=counts)
    named = {tuple(one.specs[i].scope.experts for i in (0, 1)) for one in found.arms}
    assert named == {(((0, 2),), ((0, 3),)), (((0, 4),), ((0, 3),))}
    assert found.reason == "only 2 different load-matched sets exist"
    both = drawn(arm_of("ban:layer=0,expert=0 + boost:layer=0,expert=2"), ROUTERS, 9, counts=counts)
    assert not both.arms  # expert 4 alone is left for two groups
    assert both.reason == "no load-matched control was found: the sets nearest in size that fit share experts"


def test_another_number_of_experts_is_said(sample):
    model, tokenizer = sample
    found = evaluate(
        model, SUMS, "ban:layer=3,expert=14+5", tokenizer=tokenizer, limit=4, max_new_tokens=30, control_seeds=2
    )
    (one,) = found.controls
    sizes = {len(loads[0].experts) for loads in one.control_loads}
    (row,) = [row for row in found.rows if row.measure == "kl" and row.arm != "baseline"]
    if sizes == {2}:
        assert row.control_sizes is None
    else:
        assert "experts instead of 2" in row.control_sizes
        assert row.control_sizes in found.notes[0] + found.notes[1]
