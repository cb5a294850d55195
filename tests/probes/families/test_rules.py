"""The rules on numbers that can be followed by hand."""

import math

import numpy as np
import pytest
import torch

from probes.families import rules

LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0]])


def choose(name, logits=LOGITS, **parameters):
    rule = rules()[name]
    ids, weights = rule(logits, {**rule.defaults, "top_k": 2, **parameters})
    order = weights[0].argsort(descending=True)
    return ids[0][order].tolist(), weights[0][order].tolist()


def vector(*values):
    return {"values": list(values), "dtype": "float32"}


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_softmax_topk_with_and_without_normalisation():
    total = sum(math.exp(z) for z in (2, 1, 0, -1))
    ids, weights = choose("softmax_topk", normalise=False)
    assert ids == [0, 1]
    assert weights == pytest.approx([math.exp(2) / total, math.exp(1) / total])
    _, weights = choose("softmax_topk", normalise=True)
    assert weights == pytest.approx([sigmoid(1), sigmoid(-1)])


def test_topk_softmax_is_the_normalised_softmax():
    assert choose("topk_softmax") == (
        choose("softmax_topk", normalise=True)[0],
        pytest.approx([sigmoid(1), sigmoid(-1)]),
    )
    assert choose("topk_softmax", divided_by_k=True)[1] == pytest.approx([sigmoid(1) / 2, sigmoid(-1) / 2])


def test_topk_sigmoid_weighs_each_alone():
    assert choose("topk_sigmoid") == ([0, 1], pytest.approx([sigmoid(2), sigmoid(1)]))


def test_a_bias_chooses_and_does_not_weigh():
    ids, weights = choose("sigmoid_bias", bias=vector(0, 0, 0, 10.0), normalise=False, scaling=2.0)
    assert ids == [0, 3]
    assert weights == pytest.approx([2 * sigmoid(2), 2 * sigmoid(-1)])


def test_groups_are_worth_their_two_best_or_their_best():
    """Group 0 holds the best expert, group 1 the two that are better together."""
    logits = torch.tensor([[3.0, -9.0, 1.0, 1.0]])
    by_sum = choose("sigmoid_bias", logits, groups=2, topk_group=1, normalise=False)[0]
    assert sorted(by_sum) == [2, 3]
    by_max = choose("softmax_groups", logits, groups=2, topk_group=1, group_score="max", normalise=False)[0]
    assert sorted(by_max) == [0, 1]
    assert 0 in choose("softmax_groups", logits, groups=2, topk_group=1, group_score="max", method="greedy")[0]


def test_softmax_bias_divides_by_the_sum_or_the_minimum():
    _, weights = choose("softmax_bias", normalise=True, minimum=100.0)
    assert weights[0] == pytest.approx(torch.softmax(LOGITS, -1)[0, 0].item() / 100)


def test_sqrtsoftplus_and_hash():
    def score(z):
        return math.sqrt(math.log1p(math.exp(z)))

    assert choose("sqrtsoftplus_bias")[1] == pytest.approx(
        [score(2) / (score(2) + score(1)), score(1) / (score(2) + score(1))]
    )
    ids, weights = choose("hash", ids=torch.tensor([[3, 1]]))
    assert ids == [1, 3]
    assert weights == pytest.approx([score(1) / (score(1) + score(-1)), score(-1) / (score(1) + score(-1))])


def test_sparsemixer_weighs_against_those_that_are_close():
    logits = torch.tensor([[2.0, 1.99, 0.0, -1.0]])
    ids, weights = choose("sparsemixer", logits, jitter=0.01)
    assert sorted(ids) == [0, 1]
    assert max(weights) == pytest.approx(1.0)  # the second has nobody near it once the first is out
    assert min(weights) == pytest.approx(sigmoid(0.01))


def test_probs_router_scales_each_expert():
    _, weights = choose("probs_router", expert_scale=vector(2.0, 1.0, 1.0, 1.0))
    assert weights == pytest.approx([2 * sigmoid(1), sigmoid(-1)])


def test_block_topk_normalises_by_a_norm():
    _, weights = choose("block_topk", norm_p=2.0)
    assert math.hypot(*weights) == pytest.approx(1)


def test_skip_class_has_weight_zero():
    logits = torch.tensor([[0.0, 1.0, 5.0], [9.0, 0.0, 1.0]])
    ids, weights = rules()["skip_class"](logits, {"top_k": 1})
    assert ids.flatten().tolist() == [2, 0]
    assert weights[0, 0] == 0
    assert weights[1, 0] == torch.softmax(logits, -1)[1, 0]


def test_product_key_adds_one_of_each_half():
    """Keys 2 and 1 of the halves are best: expert 2·3 + 1."""
    logits = torch.tensor([[0.0, 1.0, 5.0, 0.5, 4.0, 0.0]])
    ids, weights = rules()["product_key"](logits, {"top_k": 2})
    assert ids[0].tolist() == [7, 6]
    assert weights[0].tolist() == pytest.approx([sigmoid(3.5), sigmoid(-3.5)])


def test_one_hot_is_the_best_with_its_probability():
    ids, weights = rules()["one_hot"](LOGITS, {})
    assert ids.tolist() == [[0]]
    assert weights[0, 0] == torch.softmax(LOGITS, -1)[0, 0]


def test_shared_sigmoid_orders_by_biased_scores():
    assert sorted(choose("shared_sigmoid", bias=vector(0, 0, 5.0, 5.0))[0]) == [2, 3]


def test_stored_bf16_bits_are_understood():
    """NumPy has no bf16; a trace holds its bit patterns as uint16."""
    bits = LOGITS.bfloat16().view(torch.int16).numpy().view(np.uint16)
    rule = rules()["softmax_topk"]
    parameters = {**rule.defaults, "top_k": 2}
    assert torch.equal(rule(bits, parameters)[1], rule(LOGITS, parameters)[1])


@pytest.mark.parametrize("name", sorted(set(rules()) - {"hash", "one_hot", "skip_class", "product_key", "sparsemixer"}))
def test_a_stronger_logit_is_never_unchosen(name):
    """Raising the logit of a chosen expert keeps it chosen."""
    torch.manual_seed(0)
    logits = torch.randn(50, 8)
    parameters = {**rules()[name].defaults, "top_k": 3}
    ids, _ = rules()[name](logits, parameters)
    raised, _ = rules()[name](logits.scatter_add(1, ids[:, :1], torch.ones(50, 1)), parameters)
    assert (raised == ids[:, :1]).any(dim=1).all()
