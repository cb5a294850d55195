"""Entropy, margin and probabilities against hand-worked numbers."""

import numpy as np
import pytest

from probes.scores import bf16_to_float32, entropy, margin, probabilities


def test_uniform_logits_have_the_entropy_of_their_number():
    p = probabilities(np.zeros((3, 8)))
    assert entropy(p) == pytest.approx(np.log(8))
    assert margin(p, np.array([[0, 1]] * 3)) == pytest.approx(0)


def test_by_hand():
    p = probabilities(np.log(np.array([[0.5, 0.25, 0.25]])))
    assert p == pytest.approx(np.array([[0.5, 0.25, 0.25]]))
    assert entropy(p) == pytest.approx(1.5 * np.log(2))
    assert margin(p, np.array([[0]])) == pytest.approx(0.25)
    assert margin(p, np.array([[1]])) == pytest.approx(-0.25)


def test_one_certain_expert_has_entropy_zero():
    assert entropy(probabilities(np.array([[0.0, -1e4, -np.inf]]))) == 0


def test_sigmoid_scores_are_normalised():
    p = probabilities(np.array([[0.0, 1000.0, -1000.0]]), "sigmoid")
    assert p == pytest.approx(np.array([[1 / 3, 2 / 3, 0]]))


def test_missing_choices_have_no_margin():
    p = probabilities(np.zeros((2, 3)))
    assert np.isnan(margin(p, np.array([[-1, -1], [0, -1]]))).tolist() == [True, False]
    assert np.isnan(margin(p, np.array([[0, 1, 2]] * 2))).all()  # nothing is left to choose


def test_bf16_bits_are_exact():
    import torch

    values = torch.tensor([0.0, -0.0, 1.0, -2.5, 3e38, 1e-40, float("inf")]).bfloat16()
    bits = values.view(torch.int16).numpy().view(np.uint16)
    assert (bf16_to_float32(bits) == values.float().numpy()).all()
