"""Colours: each expert has its own, told apart by every kind of sight, readable on both themes."""

from itertools import combinations

import numpy as np
import pytest

from app.palette import NO_EXPERT_COLOR, along, apart, expert_color, luminance, scale
from app.theme import COLORS

SIGHTS = ("usual", "protan", "deutan", "tritan")


@pytest.mark.parametrize(("num_experts", "least"), [(8, 0.1), (16, 0.065), (64, 0.02)])
def test_experts_are_told_apart_by_every_kind_of_sight(num_experts, least):
    colors = [expert_color(expert, num_experts) for expert in range(num_experts)]
    nearest = min(apart(a, b, sight) for a, b in combinations(colors, 2) for sight in SIGHTS)
    assert nearest > least


def test_256_experts_have_256_colors():
    assert len({expert_color(expert, 256) for expert in range(256)}) == 256


def test_an_expert_keeps_its_color_whatever_the_number_of_experts():
    assert {expert_color(5, n) for n in (8, 16, 64, 256)} == {expert_color(5, 8)}


def test_no_expert_is_grey():
    assert expert_color(-1, 8) == expert_color(8, 8) == NO_EXPERT_COLOR


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_expert_colors_stand_out_from_the_page(theme):
    colors = [expert_color(expert, 64) for expert in range(64)]
    assert min(apart(color, COLORS[theme]["background"]) for color in colors) > 0.1


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_has_contrast(theme):
    """4.5 : 1 (WCAG 2.2 AA) for ink, quiet text and the accent, on page and surface."""
    colors = COLORS[theme]
    for text in ("ink", "quiet", "accent", "good", "bad", "second"):
        for ground in ("background", "surface"):
            low, high = sorted(luminance(colors[name]) for name in (text, ground))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (text, ground)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_sequential_scale_runs_one_way_for_every_kind_of_sight(theme):
    light = [luminance(color) for color in along(np.linspace(0, 1, 50), theme)]
    steps = np.diff(light)
    assert (steps <= 1e-9).all() or (steps >= -1e-9).all()


@pytest.mark.parametrize("kind", ["sequential", "diverging"])
def test_scales_run_from_0_to_1(kind):
    for theme in ("light", "dark"):
        stops = scale(kind, theme)
        assert (stops[0][0], stops[-1][0]) == (0, 1)


def test_no_value_has_no_color():
    assert along(np.array([np.nan, 0.5]), "light")[0] is None
