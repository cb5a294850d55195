"""Permutation tests of labels over sequences, and the control of false discoveries."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from probes.metrics.permutation import Permuted, false_discovery, p_values
from probes.routing import RoutingArrays

LENGTH, EXPERTS = 20, 8


def routing(labels: np.ndarray, taste: float, seed: int = 0, sequences: int | None = None) -> RoutingArrays:
    """One layer, one expert per token. Each sequence has habits of its own; `taste` adds expert 3 for label 1."""
    rng = np.random.default_rng(seed)
    ids = []
    for label in labels:
        p = rng.dirichlet(np.full(EXPERTS, 2.0))
        if label == 1:
            p = (1 - taste) * p + taste * np.eye(EXPERTS)[3]
        ids.append(rng.choice(EXPERTS, LENGTH, p=p))
    sequence = np.repeat(np.arange(len(labels)), LENGTH)
    return RoutingArrays(np.concatenate(ids)[:, None, None], sequence, np.arange(1), EXPERTS)


def permuted(labels: np.ndarray, arrays: RoutingArrays, **more: int) -> Permuted:
    test = Permuted(labels, int(labels.max()) + 1, (1, EXPERTS), **more)
    test.feed(arrays)
    return test


def test_the_first_row_is_the_risk_difference_and_chunks_do_not_matter() -> None:
    labels = np.array([0, 1, -1, 1, 0, 0, 1])
    arrays = routing(labels, 0.4)
    whole = permuted(labels, arrays, permutations=50)
    parts = Permuted(labels, 2, (1, EXPERTS), 50)
    for first, last in ((0, 3), (3, 7)):
        at = slice(first * LENGTH, last * LENGTH)
        parts.feed(RoutingArrays(arrays.experts[at], arrays.sequence_id[at], arrays.layers, EXPERTS))
    np.testing.assert_array_equal(whole.differences(), parts.differences())
    of_token = labels[arrays.sequence_id]
    a, b = (np.bincount(arrays.experts[of_token == g, 0, 0], minlength=EXPERTS) / (LENGTH * 3) for g in (1, 0))
    np.testing.assert_allclose(whole.differences()[0, 1, 0], a - b)
    assert (whole.labels[:, 2] == -1).all(), "a sequence without a label takes no part"


def test_p_is_the_share_of_all_arrangements_that_are_as_extreme() -> None:
    """Six sequences, three of each label: the 20 arrangements can be listed."""
    labels = np.array([0, 0, 0, 1, 1, 1])
    arrays = routing(labels, 0.3)
    share = np.stack([np.bincount(arrays.experts[arrays.sequence_id == s, 0, 0], minlength=EXPERTS) for s in range(6)])
    every = {tuple(order) for order in permutations(labels)}
    differences = np.stack([share[np.array(o) == 1].sum(0) - share[np.array(o) == 0].sum(0) for o in every])
    true = share[3:].sum(0) - share[:3].sum(0)
    exact = (np.abs(differences) >= np.abs(true) - 1e-9).mean(axis=0)
    p = p_values(permuted(labels, arrays, permutations=4000).differences()[:, 1, 0])
    assert np.abs(p - exact).max() < 0.04


def test_without_a_difference_few_experts_are_found_and_with_one_it_is() -> None:
    labels = np.arange(40) % 2
    hits = [
        bool((false_discovery(p_values(permuted(labels, routing(labels, 0.0, s)).differences()[:, :1])) <= 0.05).any())
        for s in range(40)
    ]
    assert np.mean(hits) <= 0.15, "noise is called a finding far more often than 5 % of the time"
    found = false_discovery(p_values(permuted(labels, routing(labels, 0.4)).differences()[:, :1]))[0, 0]
    assert np.argmin(found) == 3
    assert found[3] <= 0.05


def test_the_same_seed_gives_the_same_and_another_nearly_the_same() -> None:
    labels = np.arange(30) % 3
    arrays = routing(labels, 0.2)
    first, again, other = (p_values(permuted(labels, arrays, seed=s).differences()) for s in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.nanmax(np.abs(first - other)) < 0.1


def test_what_permuting_cannot_change_has_no_p() -> None:
    values = np.zeros((11, 2))
    values[:, 1] = np.arange(11)
    p = p_values(values)
    assert np.isnan(p[0])
    assert 0 < p[1] <= 1


def test_fewer_permutations_where_counts_would_not_fit() -> None:
    test = Permuted(np.zeros(3, int), 50, (48, 128))
    assert test.permutations == 200


@pytest.mark.parametrize("seed", range(3))
def test_false_discovery_is_the_textbook_procedure(seed: int) -> None:
    p = np.random.default_rng(seed).random(50) ** 3
    q = false_discovery(p)
    ranked = np.sort(p)
    passing = np.flatnonzero(ranked <= 0.05 * np.arange(1, 51) / 50)
    called = ranked[: passing[-1] + 1] if len(passing) else ranked[:0]
    np.testing.assert_array_equal(np.sort(p[q <= 0.05]), called)
    assert (np.argsort(p, kind="stable") == np.lexsort((p, q))).all()
