"""Metrics from counts: the same as from the tokens counted, and the figures OLMoE's authors publish."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from probes import metrics
from probes.errors import ProbeError, UsageError

ROOT = Path(__file__).parents[3]
PUBLISHED = [  # scripts of the model's authors, share of a domain's tokens that use the expert
    ("arxiv", 0, 0, 97.66),
    ("arxiv", 7, 17, 78.54),
    ("github", 0, 21, 62.58),
    ("wikipedia", 7, 27, 84.76),
]


@pytest.fixture(scope="module")
def olmoe() -> pd.DataFrame:
    return pd.read_parquet(ROOT / "sample_data" / "olmoe_counts.parquet")


@pytest.fixture(scope="module")
def made() -> tuple[dict, pd.DataFrame]:
    rng = np.random.default_rng(0)
    experts = np.argsort(rng.random((400, 2, 6)), axis=-1)[..., :2]
    arrays = {"experts": experts, "sequence_id": np.repeat(np.arange(20), 20), "num_experts": 6, "layers": [3, 5]}
    arrays["label"] = [["x", "y", "z"][s % 3] for s in range(20)]
    label = np.array(arrays["label"], object)[arrays["sequence_id"]]
    rows = [(3 + 2 * i, e, label[t], 1) for t in range(400) for i in range(2) for e in experts[t, i]]
    frame = pd.DataFrame(rows, columns=["layer", "expert", "label", "count"])
    return arrays, frame.groupby(["layer", "expert", "label"], as_index=False)["count"].sum()


@pytest.mark.parametrize(("domain", "layer", "expert", "percent"), PUBLISHED)
def test_published_shares(olmoe: pd.DataFrame, domain: str, layer: int, expert: int, percent: float) -> None:
    shares = metrics.from_counts("domain_specialization", olmoe, top_k=8).set_index(["label", "layer", "expert"])
    row = shares.loc[(domain, layer, expert)]
    assert round(100 * row["share"], 2) == percent
    assert row["uniform"] == 0.125
    assert row["n_tokens"] == 208_896


def test_npmi_over_olmoes_domains(olmoe: pd.DataFrame) -> None:
    """Counted by hand for one cell: arxiv and expert 0 of layer 0."""
    table = metrics.from_counts("npmi", olmoe, top_k=8).set_index(["target", "layer", "expert"])
    row = table.loc[("arxiv", 0, 0)]
    both, y, n = 204_013, 204_013 + 1_215 + 15_352 + 32_373 + 16_369, 5 * 208_896
    assert (row["n_xy"], row["n_x"], row["n_y"], row["n_tokens"]) == (both, 208_896, y, n)
    assert row["npmi"] == pytest.approx(np.log2(both / n / (0.2 * y / n)) / -np.log2(both / n))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("domain_specialization", {}),
        ("domain_specialization", {"summary": True}),
        ("npmi", {}),
        ("load", {}),
        ("dataset_distance", {}),
        ("risk_difference", {"label": "x", "against": "y"}),
    ],
)
def test_counts_give_what_the_tokens_give(made: tuple[dict, pd.DataFrame], name: str, options: dict) -> None:
    arrays, counts = made
    spelled = {("first" if k == "label" else k): v for k, v in options.items()}
    whole = getattr(metrics, name)(**arrays, **spelled)
    pd.testing.assert_frame_equal(whole, metrics.from_counts(name, counts, top_k=2, **options), check_dtype=False)


def test_what_counts_cannot_say_is_refused(made: tuple[dict, pd.DataFrame]) -> None:
    counts = made[1]
    with pytest.raises(ProbeError, match="srp needs the routing of each token"):
        metrics.from_counts("srp", counts, top_k=2)
    with pytest.raises(ProbeError, match="no labels"):
        metrics.from_counts("npmi", counts.groupby(["layer", "expert"], as_index=False)["count"].sum(), top_k=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.drop(columns="expert"), "no column 'expert'"),
        (lambda c: c.iloc[:0], "no rows"),
        (lambda c: c.assign(count=-1), "count must be whole numbers"),
        (lambda c: c.assign(count=0.5), "count must be whole numbers"),
        (lambda c: pd.concat([c, c]), "two rows for one"),
        (lambda c: c.assign(count=c["count"].where(c.index > 0, 10**6)), "not of 2 experts per token"),
    ],
)
def test_a_table_that_is_no_counts_is_refused(made: tuple[dict, pd.DataFrame], change, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        metrics.from_counts("npmi", change(made[1]), top_k=2)


def test_experts_never_chosen_are_counted_where_told(made: tuple[dict, pd.DataFrame]) -> None:
    assert metrics.from_counts("load", made[1], top_k=2, num_experts=9).groupby("layer").size().tolist() == [9, 9]
    with pytest.raises(UsageError, match="name expert 5, but num_experts is 4"):
        metrics.from_counts("load", made[1], top_k=2, num_experts=4)
