"""The metric and the intervention say with the same words which tokens keep their place; old words still work."""

import pytest

from probes import metrics
from probes.cli.main import main
from probes.errors import UsageError
from probes.interventions import parse_all

CASE = {"experts": [[0]] * 3, "num_experts": 2, "gamma": 1, "weights": [[0.9], [0.5], [0.6]]}


@pytest.mark.parametrize(
    ("keep", "drop", "lost"), [("first", "last", 0.6), ("last", "first", 0.9), ("score", "score", 0.5)]
)
def test_what_is_kept_is_not_dropped(keep, drop, lost):
    """Two of three tokens fit; by hand, the one that does not carries `lost` of 2.0."""
    for given in ({"keep": keep}, {"drop": drop}):
        assert metrics.capacity(**CASE, **given)["dropped_weight_share"].tolist() == [pytest.approx(lost / 2.0)]


def test_both_words_at_once_are_refused():
    with pytest.raises(UsageError, match="not both"):
        metrics.capacity(**CASE, keep="first", drop="last")


def test_the_intervention_takes_the_old_word():
    assert parse_all("capacity:gamma=1,order=first") == parse_all("capacity:gamma=1,keep=first")


def test_the_old_option_is_told_of(tmp_path, capsys):
    assert main(["analyze", "capacity", str(tmp_path / "none.duckdb"), "--drop", "first"]) == 1
    assert "--drop first: says which tokens go; --keep" in capsys.readouterr().err
