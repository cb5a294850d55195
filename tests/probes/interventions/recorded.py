"""What must show in a recording under each intervention: one check per name, on the arrays of the two runs.

`plain` and `steered` are dicts of arrays: experts, weights, output_norm [T, L, k], logits [T, L, E], sequence_id [T].
Interventions act in all four layers; the first one sees the same input in both runs, so there they can be compared.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

E, K = 16, 2
BEST = (3, 9)  # experts named in the specs, of every layer
MEAN = [0.5] * 128
VECTOR = [-1.0, 0.5, *[0.0] * 11, 2.0, 0.0, 3.0]


def dense(run, layer, name="weights"):
    """[T, E]: the value of each chosen expert, NaN for the others."""
    out = np.full((len(run["experts"]), E), np.nan)
    ids, values = run["experts"][:, layer], run[name][:, layer]
    rows = np.nonzero(ids >= 0)
    out[rows[0], ids[rows]] = values[rows]
    return out


def close(first, second):
    np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-5)


def scores(run, layer):
    z = run["logits"][:, layer].astype(np.float64)
    p = np.exp(z - z.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def counts(run, layer):
    ids = run["experts"][:, layer]
    return np.bincount(ids[ids >= 0], minlength=E)


def never(run, experts):
    assert not np.isin(run["experts"], experts).any()


def evenly(run):
    """Counts within five standard deviations of the draw."""
    tokens = len(run["experts"])
    for layer in range(4):
        fair = tokens * K / E
        assert abs(counts(run, layer) - fair).max() < 5 * math.sqrt(fair * (1 - K / E))


def ban(plain, steered):
    assert np.isin(plain["experts"], BEST).any()
    never(steered, BEST)


def mask(plain, steered):
    never(steered, BEST)
    assert np.isneginf(steered["logits"][..., BEST]).all()


def bias(plain, steered):
    change = steered["logits"][:, 0] - plain["logits"][:, 0]
    close(change[:, BEST], 3.0)
    close(np.delete(change, BEST, 1), 0.0)


def logit_vectors(plain, steered):
    close(steered["logits"][:, 0] - plain["logits"][:, 0], np.tile(VECTOR, (len(plain["logits"]), 1)))


def logits_replaced(plain, steered):
    close(steered["logits"][:, :2], np.broadcast_to(VECTOR, steered["logits"][:, :2].shape))
    assert (np.sort(steered["experts"][:, :2]) == [13, 15]).all()


def boost(plain, steered):
    factor = np.where(np.isin(range(E), BEST), 4.0, 1.0)
    close(dense(steered, 0), dense(plain, 0) * factor)


def zero(plain, steered):
    weights = dense(plain, 0)
    weights[:, BEST] *= 0
    close(dense(steered, 0), weights)
    assert (steered["weights"][np.isin(steered["experts"], BEST)] == 0).all()


def reroute(plain, steered):
    never(steered, (3,))
    before, after = dense(plain, 0), dense(steered, 0)
    moved = np.nansum(before[:, [3, 9]], 1)
    close(np.nan_to_num(after[:, 9]), moved)
    close(np.delete(after, BEST, 1), np.delete(before, BEST, 1))


def shrink(plain, steered):
    assert ((steered["experts"] >= 0).sum(-1) == 1).all()
    close(steered["weights"][:, 0, 0], plain["weights"][:, 0, 0])


def temperature(plain, steered):
    close(steered["logits"][:, 0], plain["logits"][:, 0] / 2)


def top_k(plain, steered):
    assert ((steered["experts"] >= 0).sum(-1) == 3).all()
    best = np.sort(scores(steered, 1))[:, :-4:-1]
    close(steered["weights"][:, 1], best)


def force(plain, steered):
    for expert in BEST:
        assert (steered["experts"] == expert).any(-1).all()


def noise(plain, steered):
    assert (plain["experts"][:, 0] == steered["experts"][:, 0]).all()  # ends are spared
    changed = 0
    for layer in (1, 2):
        clean = scores(steered, layer)
        close(steered["weights"][:, layer], np.take_along_axis(clean, steered["experts"][:, layer].astype(int), 1))
        changed += (steered["weights"][:, layer].sum(-1) < np.sort(clean)[:, -2:].sum(-1) - 1e-5).mean()
    assert changed > 0.2


def random(plain, steered):
    evenly(steered)
    p = scores(steered, 2)
    close(steered["weights"][:, 2], np.take_along_axis(p, steered["experts"][:, 2].astype(int), 1))


def uniform(plain, steered):
    evenly(steered)
    close(steered["weights"][..., 0], steered["weights"][..., 1])
    close(steered["weights"][:, 0].sum(-1), plain["weights"][:, 0].sum(-1))


def mask_top(plain, steered):
    order = np.argsort(-plain["logits"][:, 0], axis=-1, kind="stable")
    assert (steered["experts"][:, 0] == order[:, 3:5]).all()
    close(steered["weights"][:, 0], np.take_along_axis(scores(plain, 0), order[:, 3:5], 1))


def rank(plain, steered):
    order = np.argsort(-plain["logits"][:, 0], axis=-1, kind="stable")[:, [1, 3]]
    assert (steered["experts"][:, 0] == order).all()
    close(steered["weights"][:, 0], np.take_along_axis(scores(plain, 0), order, 1))


def same_choice(plain, steered):
    close(dense(steered, 0), dense(plain, 0))


def output_zero(plain, steered):
    same_choice(plain, steered)
    norms = dense(plain, 0, "output_norm")
    norms[:, BEST] *= 0
    close(dense(steered, 0, "output_norm"), norms)


def output_scale(plain, steered):
    same_choice(plain, steered)
    factor = np.where(np.isin(range(E), BEST), -2.0, 1.0)
    close(dense(steered, 0, "output_norm"), dense(plain, 0, "output_norm") * abs(factor))


def output_mean(plain, steered):
    same_choice(plain, steered)
    before, after = dense(plain, 0, "output_norm"), dense(steered, 0, "output_norm")
    expected = np.where(np.isnan(before[:, 3]), np.nan, np.linalg.norm(MEAN))
    close(after[:, 3], expected)
    close(np.delete(after, 3, 1), np.delete(before, 3, 1))


def output_other(plain, steered):
    same_choice(plain, steered)
    every, after = dense(plain["every"], 0, "output_norm"), dense(steered, 0, "output_norm")
    expected = np.where(np.isnan(dense(plain, 0)), np.nan, every)
    expected[:, 3] = np.where(np.isnan(expected[:, 3]), np.nan, every[:, 9])
    close(after, expected)


def online_pruning(plain, steered):
    before = plain["weights"][:, 0]
    kept = before >= 0.6 * before.max(-1, keepdims=True)
    assert 0 < (~kept).sum() < kept.sum()
    assert ((steered["experts"][:, 0] >= 0) == kept).all()
    close(steered["weights"][:, 0][kept], before[kept])


def protected(plain, steered):
    kept = (steered["experts"][:, 0] >= 0).all(-1)
    for sequence in np.unique(plain["sequence_id"]):
        at = plain["sequence_id"] == sequence
        assert kept[at].sum() == int(0.25 * at.sum())


def steermoe(plain, steered):
    assert (steered["experts"] == 3).any(-1).all()
    never(steered, (9,))
    s = np.log(scores(plain, 0))
    close(steered["logits"][:, 0, 3], s.max(-1) + 0.01)
    close(steered["logits"][:, 0, 9], s.min(-1) - 0.01)
    close(np.delete(steered["logits"][:, 0], BEST, 1), np.delete(s, BEST, 1))


def top_p(plain, steered):
    for layer in range(4):
        p = scores(steered, layer)
        best = -np.sort(-p)
        needed = np.minimum((best.cumsum(-1) <= 0.4).sum(-1), E - 1) + 1
        sure = abs(best.cumsum(-1) - 0.4).min(-1) > 1e-5  # where rounding does not decide
        found = (steered["experts"][:, layer] >= 0).sum(-1)
        assert (found == needed)[sure].all()
        for row in np.flatnonzero(sure)[:200]:
            close(steered["weights"][row, layer, : needed[row]], best[row, : needed[row]])
    assert len(np.unique(found)) > 1


def within_capacity(steered, gamma):
    """All tokens went through in one pass."""
    limit = math.ceil(gamma * K * len(steered["experts"]) / E)
    for layer in range(4):
        assert counts(steered, layer).max() <= limit
    return limit


def capacity_drop(plain, steered):
    limit = within_capacity(steered, 0.9)
    assert (counts(steered, 0) == np.minimum(counts(plain, 0), limit)).all()
    before, after, p = dense(plain, 0), dense(steered, 0), scores(plain, 0)
    for expert in np.flatnonzero(counts(plain, 0) > limit):
        kept, lost = ~np.isnan(after[:, expert]), np.isnan(after[:, expert]) & ~np.isnan(before[:, expert])
        assert p[kept, expert].min() >= p[lost, expert].max() - 1e-6


def capacity_reroute(plain, steered):
    limit = within_capacity(steered, 1.0)
    assert counts(plain, 0).max() > limit
    before, after, p = dense(plain, 0), dense(steered, 0), scores(plain, 0)
    own = ~np.isnan(before) & ~np.isnan(after)
    close(after[own], before[own])
    moved = np.isnan(before) & ~np.isnan(after)
    close(after[moved], p[moved])  # a softmax family without normalisation: the weight is the probability
    assert moved.any()
    assert counts(steered, 0).sum() == counts(plain, 0).sum()


def broadcast(plain, steered):
    for layer in range(4):
        p = scores(steered, layer)
        entropy = -(p * np.log(p)).sum(-1)
        far = abs(entropy - 0.77 * math.log(E)) > 1e-5
        everywhere = (steered["experts"][:, layer] >= 0).sum(-1) == E
        assert (everywhere == (entropy >= 0.77 * math.log(E)))[far].all()
        assert 0 < everywhere.sum() < len(everywhere)
        close(dense(steered, layer)[everywhere], p[everywhere])
    calm = ~((steered["experts"][:, 0] >= 0).sum(-1) == E)
    close(dense(steered, 0)[calm], dense(plain, 0)[calm])


def expert_choice(plain, steered):
    limit = within_capacity(steered, 1.0)
    for layer in range(4):
        assert (counts(steered, layer) == limit).all()
        p, taken = scores(steered, layer), ~np.isnan(dense(steered, layer))
        close(dense(steered, layer)[taken], p[taken])
        assert np.where(taken, p, np.inf).min(0).min() >= 0
        assert (np.where(taken, p, np.inf).min(0) >= np.where(taken, -np.inf, p).max(0) - 1e-6).all()


def norm_choice(plain, steered):
    every = dense(plain["every"], 0, "output_norm")
    best = np.sort(np.argsort(-every, axis=-1)[:, :K])
    assert (np.sort(steered["experts"][:, 0]) == best).mean() > 0.999
    close(steered["weights"][:, 0], np.take_along_axis(scores(plain, 0), steered["experts"][:, 0].astype(int), 1))


def prune(plain, steered):
    assert set(np.unique(steered["experts"])) == set(range(8))
    assert len(np.unique(plain["experts"])) > 8


def frequency_prune(plain, steered):
    lost = 0
    for sequence in np.unique(plain["sequence_id"]):
        at = plain["sequence_id"] == sequence
        before, after = (
            np.bincount(r["experts"][at, 0][r["experts"][at, 0] >= 0], minlength=E) for r in (plain, steered)
        )
        enough = before >= 0.5 * at.sum() * K / E
        assert (after == np.where(enough, before, 0)).all()
        lost += (before - after).sum()
    assert lost > 0


@dataclass(frozen=True)
class Case:
    spec: Any
    check: Any


NAMED = "expert=3+9"
MEANS = {str(layer): {"3": MEAN} for layer in range(4)}
CASES = {
    "rank": Case("rank:rank=2+4", rank),
    "ban": Case(f"ban:{NAMED}", ban),
    "mask": Case(f"mask:{NAMED}", mask),
    "bias": Case(f"bias:{NAMED},delta=3", bias),
    "logit_vectors": Case({"name": "logit_vectors", "vectors": dict.fromkeys("0123", VECTOR)}, logit_vectors),
    "logit_vectors replace": Case(
        {"name": "logit_vectors", "vectors": dict.fromkeys("01", VECTOR), "layers": [0, 1], "mode": "replace"},
        logits_replaced,
    ),
    "boost": Case(f"boost:{NAMED},factor=4", boost),
    "zero": Case(f"zero:{NAMED}", zero),
    "reroute": Case("reroute:from=3,to=9", reroute),
    "shrink": Case("shrink:to=1", shrink),
    "temperature": Case("temperature:tau=2", temperature),
    "top_k": Case("top_k:k=3", top_k),
    "force": Case(f"force:{NAMED}", force),
    "noise": Case("noise:tau=1", noise),
    "random": Case("random", random),
    "uniform": Case("uniform", uniform),
    "mask_top": Case("mask_top:r=3", mask_top),
    "output": Case(f"output:{NAMED}", output_zero),
    "output scale": Case(f"output:{NAMED},mode=scale,factor=-2", output_scale),
    "output mean": Case({"name": "output", "mode": "mean", "means": MEANS}, output_mean),
    "output other": Case("output:expert=3,mode=other,to=9", output_other),
    "online_pruning": Case("online_pruning:ratio=0.6", online_pruning),
    "online_pruning protect": Case("online_pruning:ratio=1,protect=0.25", protected),
    "steermoe": Case("steermoe:activate=3,deactivate=9", steermoe),
    "top_p": Case("top_p:p=0.4", top_p),
    "capacity": Case("capacity:gamma=0.9", capacity_drop),
    "capacity reroute": Case("capacity:gamma=1,mode=reroute", capacity_reroute),
    "broadcast": Case("broadcast", broadcast),
    "expert_choice": Case("expert_choice", expert_choice),
    "norm_choice": Case("norm_choice", norm_choice),
    "prune": Case("prune:keep=0-7", prune),
    "frequency_prune": Case("frequency_prune:alpha=0.5", frequency_prune),
}
# What acts on each token by itself, whatever else is in the pass, and draws nothing.
PER_TOKEN = tuple(
    name
    for name in CASES
    if not name.startswith(("capacity", "expert_choice", "frequency", "noise", "random", "uniform"))
    and name != "online_pruning protect"
)
