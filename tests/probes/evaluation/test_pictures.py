"""Charts with intervals, and areas under curves."""

from xml.etree import ElementTree

import numpy as np
import pytest

from probes.errors import ProbeError
from probes.evaluation.areas import area, loss_curve, mean_of
from probes.evaluation.evaluate import Evaluation
from probes.evaluation.plots import Point, Series, chart


def marks(svg):
    root = ElementTree.fromstring(svg)
    return [
        g for g in root.iter("{http://www.w3.org/2000/svg}g") if g.find("{http://www.w3.org/2000/svg}title") is not None
    ]


def test_a_chart_has_a_mark_for_every_point_and_says_its_numbers():
    series = [
        Series("a <b>", [Point(1, 0.5, 0.4, 0.6), Point(64, 1.0, 1.0, 1.0)], joined=True),
        Series("c", [Point(1, 0.1, 0.0, 0.2)]),
    ]
    svg = chart("Title & more", "factor", "share", series, log=True)
    said = [g[0].text for g in marks(svg)]
    assert said == ["a <b>, 1: 0.5 [0.4, 0.6]", "a <b>, 64: 1 [1, 1]", "c, 1: 0.1 [0, 0.2]"]
    assert "Title &amp; more" in svg


def test_names_are_an_axis_too_and_missing_values_are_left_out():
    points = [Point("plain", 1.0, 0.9, 1.0), Point("contrast", float("nan"), 0.0, 0.0)]
    assert len(marks(chart("t", "x", "y", [Series("s", points)]))) == 1
    with pytest.raises(ProbeError, match="nothing to draw"):
        chart("t", "x", "y", [Series("s", points[1:])])


def evaluation(losses):
    """Two items of 10 tokens; arm -> −ln p of each."""
    items = [{"arm": arm, "nll": nll, "n": 10} for arm, values in losses.items() for nll in values]
    return Evaluation([], items, {}, {"seed": 0})


def test_a_loss_curve_is_per_token_above_the_baseline():
    found = evaluation({"baseline": [1.0, 3.0], "half": [2.0, 4.0], "all": [6.0, 8.0]})
    values, drawn = loss_curve(found, ["half", "all"])
    assert values.tolist() == pytest.approx([0.1, 0.5])
    assert np.allclose(drawn, [0.1, 0.5])  # both items lose the same, whoever is drawn


def test_areas_are_mean_heights_whatever_the_direction():
    values, drawn = np.array([0.0, 1.0, 1.0]), np.tile([0.0, 1.0, 1.0], (50, 1))
    up = area(values, drawn, [0.0, 50.0, 100.0])
    assert (up.value, up.low, up.high) == pytest.approx((0.75, 0.75, 0.75))
    down = area(values[::-1], drawn[:, ::-1], [100.0, 50.0, 0.0])
    assert down.value == pytest.approx(0.75)
    assert up.minus(down) == pytest.approx((0, 0, 0))


def test_the_mean_of_areas_counts_who_was_drawn():
    low, high = (area(np.full(2, v), np.full((500, 2), v), [0.0, 1.0]) for v in (1.0, 3.0))
    mean = mean_of([low, high])
    assert mean.value == 2
    assert (mean.low, mean.high) == (1, 3)
