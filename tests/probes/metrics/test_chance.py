"""Every figure called chance, expected or random, against simulated random routing of different experts per token."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from probes import metrics
from probes.metrics.chance import independent_bits, largest_share, shared_choices
from probes.metrics.distinct import expected_pairs

SHAPES = [(k, e) for k in (1, 2, 8) for e in (8, 64, 256)]


def routed(rng: np.random.Generator, tokens: int, k: int, experts: int, spread: float) -> np.ndarray:
    """[T, k] different experts per token, drawn with weights as uneven as `spread` says: no structure but the loads.

    Whole sets are drawn: independent flips of the experts, kept where k of them are heads.
    """
    weight = np.exp(spread * rng.normal(size=experts))
    odds = weight * np.exp(_level(weight, k))
    kept: list[np.ndarray] = []
    if k == experts:
        return np.argsort(rng.random((tokens, experts)), axis=1)
    while sum(map(len, kept)) < tokens:
        heads = rng.random((8192, experts)) < odds / (1 + odds)
        heads = heads[heads.sum(axis=1) == k]
        kept.append(np.argsort(-(heads + rng.random(heads.shape) / 2), axis=1)[:, :k])
    return np.concatenate(kept)[:tokens]


def _level(weight: np.ndarray, k: int) -> float:
    low, high = -30.0, 30.0
    for _ in range(60):
        middle = (low + high) / 2
        odds = weight * np.exp(middle)
        low, high = (middle, high) if (odds / (1 + odds)).sum() < k else (low, middle)
    return low


@pytest.mark.parametrize("spread", [0.0, 1.0])
@pytest.mark.parametrize(("k", "experts"), SHAPES)
def test_pairs_of_random_routing_are_where_chance_puts_them(k: int, experts: int, spread: float) -> None:
    tokens = 20_000
    ids = routed(np.random.default_rng(1), tokens, k, experts, spread)
    table = metrics.coactivation(ids, num_experts=experts)
    if k == 1:
        assert (table["expected"].fillna(0) == 0).all()
        assert table[["lift_distinct", "npmi_distinct"]].isna().all(axis=None)
        return
    load = np.bincount(ids.ravel(), minlength=experts)
    mean = table["expected"] * load[table["expert"]]
    known = mean > 0
    z = ((table["n_ij"] - mean) / np.sqrt(mean))[known]
    if k == experts:
        assert table["lift_distinct"].tolist() == pytest.approx([1.0] * len(table))
        return
    # Pairs by what the loads let expect: in no part do random pairs look sought or avoided.
    for part in np.array_split(np.argsort(mean[known].to_numpy()), 4):
        chosen, due = table["n_ij"][known].to_numpy()[part].sum(), mean[known].to_numpy()[part].sum()
        assert abs(chosen - due) < 5 * np.sqrt(2 * due) + 1e-6
    assert z.std() < 1.15
    seen = known & (table["n_ij"] > 0)
    assert (table["lift"][seen] < table["lift_distinct"][seen]).all()
    if not spread:
        random = (k - 1) * experts / (k * (experts - 1))
        assert (table["lift"] / table["lift_distinct"])[seen].mean() == pytest.approx(random, rel=0.01)


def test_equal_loads_give_the_closed_form() -> None:
    for k, experts in SHAPES:
        sizes = np.zeros(k + 1)
        sizes[k] = n = experts * 1000
        pairs = expected_pairs(np.full(experts, n * k / experts), sizes)
        assert pairs[0, 1] == pytest.approx(n * k * (k - 1) / (experts * (experts - 1)), rel=1e-9)


@pytest.mark.parametrize("sizes", [{2: 1.0}, {5: 1.0}, {1: 0.3, 2: 0.5, 4: 0.2}, {2: 0.5, 6: 0.5}])
@pytest.mark.parametrize("adjacent", [False, True])
def test_all_sets_one_by_one(sizes: dict[int, float], adjacent: bool) -> None:
    weight = np.exp(np.random.default_rng(3).normal(size=7))
    share, pairs = np.zeros(7), np.zeros((7, 7))
    for k, part in sizes.items():
        sets = [np.isin(np.arange(7), s) for s in combinations(range(7), k)]
        probable = np.array([weight[s].prod() for s in sets])
        for s, p in zip(sets, part * probable / probable.sum(), strict=True):
            share += p * s
            pairs += p * np.outer(s, s) * (2 / max(k, 2) if adjacent else 1)
    np.fill_diagonal(pairs, 0)
    by_size = np.array([sizes.get(k, 0.0) for k in range(8)])
    np.testing.assert_allclose(expected_pairs(1e5 * share, 1e5 * by_size, adjacent), 1e5 * pairs, rtol=1e-4)


def test_an_expert_of_every_token_and_one_nearly_of_every_token() -> None:
    rng = np.random.default_rng(0)
    others = np.argsort(rng.random((5000, 62)), axis=1)[:, :6] + 2
    nearly = np.where(rng.random((5000, 1)) < 0.999, 1, 63)
    ids = np.concatenate([np.zeros((5000, 1), int), nearly, np.where(others == 63, 62, others)], axis=1)
    ids = ids[[len(set(row)) == 8 for row in ids.tolist()]]
    table = metrics.coactivation(ids, num_experts=64).set_index(["expert", "other"])
    assert table.loc[(5, 0), "expected"] == pytest.approx(1.0)
    assert 0.99 < table.loc[(5, 1), "expected"] < 1.0
    load = np.bincount(ids.ravel(), minlength=64)
    due = table["expected"] * load[table.index.get_level_values("expert")]
    assert due.groupby("expert").sum().to_numpy() == pytest.approx(7 * load[load > 0], rel=1e-6)


@pytest.mark.parametrize(("k", "experts"), SHAPES)
def test_bits_of_layers_that_ignore_each_other(k: int, experts: int) -> None:
    rng = np.random.default_rng(2)
    for rank in ("1", "all"):
        ids = np.stack([routed(rng, 5000, k, experts, 0.7) for _ in range(2)], axis=1)
        row = metrics.cross_layer(ids, num_experts=experts, rank=rank).iloc[0]
        n = 5000 * (k**2 if rank == "all" else 1)
        noise = 5 * np.sqrt(2) * experts / (2 * n * np.log(2))  # of a χ² with E² degrees of freedom
        assert row["mi_bits"] == pytest.approx(row["mi_chance"], rel=0.06, abs=noise)


def test_bits_of_an_empty_table() -> None:
    assert np.isnan(independent_bits(np.zeros(4), np.zeros(4), np.zeros(()), np.ones(())))


@pytest.mark.parametrize("spread", [0.0, 1.0])
@pytest.mark.parametrize(("k", "experts"), SHAPES)
def test_choices_that_two_runs_share(k: int, experts: int, spread: float) -> None:
    rng = np.random.default_rng(4)
    a, b = (routed(rng, 5000, k, experts, spread) for _ in range(2))
    shared = np.mean([len(set(x) & set(y)) / k for x, y in zip(a.tolist(), b.tolist(), strict=True)])
    load = [np.bincount(ids.ravel(), minlength=experts) / 5000 for ids in (a, b)]
    assert float(shared_choices(*load)) == pytest.approx(shared, abs=5 * np.sqrt(0.25 / 5000 / k))
    if not spread:
        assert float(shared_choices(*load)) == pytest.approx(k / experts, rel=0.05)


@pytest.mark.parametrize("experts", [8, 64, 256])
@pytest.mark.parametrize("n", [20, 1000])
def test_share_of_the_most_frequent_expert(experts: int, n: int) -> None:
    load = np.exp(np.random.default_rng(5).normal(size=experts) / 2)
    drawn = np.random.default_rng(6).choice(experts, (1000, n), p=load / load.sum())
    largest = np.mean([np.bincount(row).max() / n for row in drawn])
    assert largest_share(n, load) == pytest.approx(largest, rel=0.03)
    assert np.isnan(largest_share(0, load))


@pytest.mark.parametrize(("k", "experts"), SHAPES)
def test_labels_of_random_routing(k: int, experts: int) -> None:
    """nPMI 0 and share k/E: an expert is chosen or not, so distinct choices change nothing."""
    rng = np.random.default_rng(7)
    ids = routed(rng, 20_000, k, experts, 0.0)
    given = {"sequence_id": np.arange(20_000) // 100, "num_experts": experts}
    label = ["a", "b"] * 100
    npmi = metrics.npmi(ids, label=label, **given)["npmi"]
    assert abs(npmi.mean()) < 0.005
    table = metrics.domain_specialization(ids, label=label, **given)
    assert table["uniform"].iloc[0] == k / experts
    assert table["share"].mean() == pytest.approx(k / experts)
    assert (table["share"] - k / experts).abs().max() < 6 * np.sqrt(k / experts / 10_000)


@pytest.mark.parametrize(("k", "experts"), [s for s in SHAPES if s[0] < s[1]])
def test_a_full_cache_hits_its_part_of_even_choices(k: int, experts: int) -> None:
    ids = routed(np.random.default_rng(8), 30_000, k, experts, 0.0)
    size = max(k, experts // 4)
    table = metrics.cache_hit_rate(ids, num_experts=experts, level="layer", policy="lru", cache_size=size)
    assert table["hit_rate"].iloc[0] == pytest.approx(size / experts, abs=0.02)
