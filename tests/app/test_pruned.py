"""Curves of what pruning costs, from a result of `probe eval`; whatever else is uploaded is refused in a line."""

import json

import pytest

from app import charts
from app.tables import pruned
from probes.errors import UsageError


def result(*arms):
    rows = [
        {"task": "sums", "arm": arm, "measure": "exact_match", "unit": "share", "n": 40, "value": value,
         "low": value - 0.1, "high": value + 0.1, "baseline": 1.0, "control": control}
        for arm, value, control in arms
    ]  # fmt: skip
    return json.dumps({"rows": rows}).encode()


ARMS = [
    ("baseline", 1.0, None),
    ("expert_importance:criterion=reap,keep=0.5", 0.8, 0.2),
    ("expert_importance:criterion=reap,keep=0.25", 0.4, 0.1),
    ("expert_importance:criterion=ean", 0.7, None),
    ("ban:expert=3", 0.1, 0.9),
]


def test_rows_are_those_of_keep_lists():
    found = pruned.curves(result(*ARMS))
    assert found[["criterion", "keep", "value"]].to_numpy().tolist() == [
        ["ean", 0.75, 0.7],
        ["reap", 0.25, 0.4],
        ["reap", 0.5, 0.8],
    ]


def test_the_figure_has_a_line_per_criterion_and_the_controls():
    figure = charts.evaluated_curves(pruned.curves(result(*ARMS)), "light", "exact_match (share)")
    assert [trace.name for trace in figure.data] == ["ean", "reap", "random"]
    assert list(figure.data[2].y) == [0.1, 0.2]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"no json", "no result of probe eval"),
        (b"[1, 2]", "no result of probe eval"),
        (b'{"rows": []}', "holds no pruning"),
        (result(("ban:expert=3", 0.1, 0.9)), "holds no pruning"),
        (b" " * (pruned.MOST + 1), "larger than"),
        (b"[" * 100_000, "no result of probe eval"),
        (b'{"rows": 3}', "no result of probe eval"),
        (b'{"rows": {"a": 1}}', "holds no pruning"),
        (b'{"rows": [{"arm": "expert_importance:keep=0.5", "value": null, "n": 4}]}', "holds no pruning"),
        (b'{"rows": [{"arm": "expert_importance:keep=0.5", "value": 1e999, "n": 4}]}', "holds no pruning"),
        (b'{"rows": [{"arm": "expert_importance:keep=0.5", "value": 0.5}]}', "holds no pruning"),
        (b'{"rows": [{"arm": "expert_importance:keep=nan", "value": 0.5, "n": 4}]}', "holds no pruning"),
        (b'{"rows": [{"arm": "expert_importance:keep=0.5", "value": "many", "n": 4}]}', "holds no pruning"),
    ],
)
def test_anything_else_is_refused(body, said):
    with pytest.raises(UsageError, match=said):
        pruned.curves(body)


def test_hostile_names_stay_text():
    figure = charts.evaluated_curves(
        pruned.curves(result(("expert_importance:criterion=<img src=x>,keep=0.5", 0.5, None))), "dark", "<b>m</b>"
    )
    assert "<img" not in figure.to_json()
