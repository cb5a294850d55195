"""Metrics called with ids sorted by number beside their weights: first choices are those of the weights."""

import numpy as np
import pytest

from probes import metrics

T, E, K = 200, 8, 3


@pytest.fixture(scope="module")
def routed():
    random = np.random.default_rng(0)
    ids = np.argsort(random.random((T, 2, E)), axis=2)[..., :K]
    return {
        "experts": ids,
        "weights": -np.sort(-random.random((T, 2, K)), axis=2),
        "output_norm": random.random((T, 2, K)),
    }


def by_number(routed):
    order = np.argsort(routed["experts"], axis=2)
    return {name: np.take_along_axis(values, order, 2) for name, values in routed.items()}


@pytest.mark.parametrize(
    ("name", "options"),
    [("cross_layer", {"rank": "1"}), ("norm_vs_gate", {}), ("coactivation", {"adjacent_rank": True})],
)
def test_rank_metrics_do_not_depend_on_the_order_given(routed, name, options):
    function = getattr(metrics, name)
    given = by_number(routed)
    kept = {key: value.copy() for key, value in given.items()}
    again = function(**given, num_experts=E, **options)
    assert again.equals(function(**routed, num_experts=E, **options))
    plain = {key: value for key, value in given.items() if key != "weights"}
    assert not again.equals(function(**plain, num_experts=E, **options))  # without weights the order is as given
    assert all(np.array_equal(given[key], kept[key]) for key in kept)


def test_the_first_choice_is_that_of_the_largest_weight(routed):
    """Mutual information of the first choices of both layers, summed over all pairs of experts."""
    first = routed["experts"][:, :, 0]
    bits = 0.0
    for a in range(E):
        for b in range(E):
            both = ((first[:, 0] == a) & (first[:, 1] == b)).mean()
            if both:
                bits += both * np.log2(both / ((first[:, 0] == a).mean() * (first[:, 1] == b).mean()))
    frame = metrics.cross_layer(**by_number(routed), num_experts=E, rank="1")
    assert frame["mi_bits"].tolist() == pytest.approx([bits])
