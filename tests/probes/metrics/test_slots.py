"""Partly empty rows: what each metric makes of them, against loops over tokens written here."""

from __future__ import annotations

import numpy as np
import pytest

from probes import metrics
from probes.errors import ProbeError
from probes.routing import packed
from tests.probes.metrics.cases import drop_slots, random_case


def sets(ids):
    """[token][layer] the chosen experts, None without routing, an empty set where all were lost."""
    return [[None if (row == -1).all() else {int(e) for e in row if e >= 0} for row in token] for token in ids]


@pytest.fixture(params=range(6))
def case(request):
    return drop_slots(random_case(request.param), np.random.default_rng(request.param))


def test_unchosen_mass_is_that_of_the_experts_not_chosen(case):
    table = metrics.unchosen_mass(**case).set_index("layer")
    for i, layer in enumerate(case["layers"]):
        masses = []
        for t, token in enumerate(sets(case["experts"])):
            z = case["logits"][t, i]
            if token[i] and not np.isnan(z).any():
                p = np.exp(z) / np.exp(z).sum()
                masses.append(sum(p[e] for e in range(len(p)) if e not in token[i]))
        assert table.loc[layer, "mean"] == pytest.approx(np.mean(masses))
        assert table.loc[layer, "n_tokens"] == len(masses)


def test_a_label_s_share_is_of_its_tokens(case):
    table = metrics.domain_specialization(**case)
    found = sets(case["experts"])
    for row in table.itertuples():
        i = case["layers"].tolist().index(row.layer)
        mine = [token[i] for token, label in zip(found, case["label"], strict=True) if label == row.label and token[i]]
        expected = np.mean([row.expert in chosen for chosen in mine]) if mine else np.nan
        assert row.share == pytest.approx(expected, nan_ok=True)
        assert row.uniform == pytest.approx(case["top_k"] / case["num_experts"])


def test_no_expert_is_a_choice_between_two_runs(case):
    saturation = metrics.router_saturation(**case).set_index("layer")
    changed = metrics.batch_invariance(**case, summary=True).set_index("layer")
    pairs = list(zip(sets(case["experts"]), sets(case["other_experts"]), strict=True))
    for i, layer in enumerate(case["layers"]):
        # The empty set becomes a set of one thing that no expert is.
        both = [(a[i] or {None}, b[i] or {None}) for a, b in pairs if a[i] is not None and b[i] is not None]
        shares = [len(a & b) / max(len(a), len(b)) for a, b in both]
        assert saturation.loc[layer, "saturation"] == pytest.approx(np.mean(shares))
        assert changed.loc[layer, "changed_tokens"] == sum(a != b for a, b in both)
        assert changed.loc[layer, "n_tokens"] == len(both)


def test_capacity_and_caches_go_by_the_router_s_k(case):
    k, experts = case["top_k"], case["num_experts"]
    for row in metrics.capacity(**case, gamma=(1.0, 2.0)).itertuples():
        assert row.capacity == np.ceil(row.gamma * k * row.n_tokens / experts)
    caches = metrics.sch(**case, segment_length=1)
    layers = caches[caches["level"] == "layer"]
    assert np.allclose(layers["cache_ratio"], layers["cache_size"] / k)


def test_ranks_of_a_token_are_among_its_own_experts():
    # One token with three experts, one with two, one with one: ρ = −1, 1 and none.
    experts = [[[0, 1, 2]], [[3, 4, -1]], [[5, -1, -1]]]
    norms = [[[1.0, 2.0, 3.0]], [[2.0, 1.0, np.nan]], [[1.0, np.nan, np.nan]]]
    summary = metrics.norm_vs_gate(experts, num_experts=6, output_norm=norms, summary=True)
    assert summary[["spearman", "n_tokens"]].values.tolist() == [[0.0, 3]]
    ranks = metrics.norm_vs_gate(experts, num_experts=6, output_norm=norms)
    counts = ranks.pivot(index="gate_rank", columns="norm_rank", values="n").to_numpy()
    assert counts.tolist() == [[2, 0, 1], [0, 2, 0], [1, 0, 0]]


def test_weights_of_empty_slots_are_no_weights():
    weights = [[[0.5, 0.5, 7.0]], [[0.9, 0.9, 0.9]]]
    table = metrics.routing_entropy(
        [[[0, 1, -1]], [[-2, -1, -1]]], num_experts=4, weights=weights, over="chosen", top_k=2
    )
    assert table[["entropy_mean", "normalized_mean", "n_tokens"]].values.round(12).tolist() == [
        [round(np.log(2), 12), 1.0, 1]
    ]


def test_the_first_expert_is_the_first_that_is_left():
    assert packed(np.array([[-1, 3, -2, 1], [-1, -2, -1, -1], [-1, -1, -1, -1]]))[0].tolist() == [
        [3, 1, -1, -1], [-2, -1, -1, -1], [-1, -1, -1, -1]
    ]  # fmt: skip
    ids, weights = packed(np.array([[-1, 3, 2]]), np.array([[9.0, 0.7, 0.3]]))
    assert ids.tolist() == [[3, 2, -1]]
    assert weights[0, :2].tolist() == [0.7, 0.3]
    assert np.isnan(weights[0, 2])


def test_what_never_meets_has_no_pmi():
    table = metrics.npmi([[0], [1]], [0, 1], 2, label=["a", "b"])
    assert table["pmi"].isna().tolist() == [False, True, True, False]
    assert table["npmi"].tolist() == [1.0, -1.0, -1.0, 1.0]


def test_a_k_that_no_router_has_is_refused():
    with pytest.raises(ProbeError, match="top_k is 5; it must lie in 1"):
        metrics.load([[0], [1]], num_experts=2, top_k=5)
