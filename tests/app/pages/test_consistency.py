"""The Consistency page: SRP and hit rates as the metrics give them, and a planner whose sums can be done by hand."""

import json

import numpy as np
import pandas as pd
import pytest

from app import charts
from app.tables import planner
from probes.analysis import analyze
from store import database
from store.trace import open_trace
from tests.app.conftest import shown
from tests.app.traces import Shape, open_writer, recording_trace, write_trace

GIB = 2**30


def alt_of(test):
    return {
        element.proto.id.split("-")[-1]: element.proto.alt for element in test.get("plotly_chart") if element.proto.alt
    }


def test_all_three_stories(open_page, traces):
    test = open_page([traces["plain"]], "consistency")
    assert not test.exception
    text = shown(test)
    for question in (
        "How local is the routing?",
        "What does a cache of experts reach?",
        "What does a memory budget buy?",
    ):
        assert question in text
    assert set(alt_of(test)) == {"chart_srp", "chart_caches", "chart_budget"}
    assert all(len(alt) > 60 for alt in alt_of(test).values())
    assert len(test.get("download_button")) == 3


def test_numbers_are_those_of_the_metrics(open_page, traces):
    text = shown(open_page([traces["plain"]], "consistency"))
    srp = analyze(open_trace(traces["plain"]), "srp", segment_length=2, level="model")["srp"].iloc[0]
    assert f"Over segments of 2 tokens SRP is {srp:.3f}" in text
    rates = analyze(open_trace(traces["plain"]), "cache_hit_rate", cache_size=4, level="layer")["hit_rate"]
    assert f"LRU hits {100 * rates.mean():.3g}" in text


def test_one_layer(open_page, traces):
    test = open_page([traces["plain"]], "consistency", layer=3)
    assert not test.exception
    assert "; layer 3 has" in shown(test)
    assert "in layer 3 LRU hits" in shown(test)


def test_the_plan_follows_the_url(open_page, traces):
    test = open_page([traces["plain"]], "consistency", expert_mib=64, budget_gib=1, policy="belady", link_gbs=10)
    assert not test.exception
    text = shown(test)
    assert "1.00 GiB hold 4 of 16 experts in each of 4 layers; with Belady" in text
    everything = shown(open_page([traces["plain"]], "consistency", expert_mib=64, budget_gib=4))
    assert "nothing is moved" in everything


NONSENSE = [("budget_gib", "x"), ("budget_gib", "-1"), ("expert_mib", "nan"), ("policy", "mru"), ("ahead", "3")]


@pytest.mark.parametrize(
    "choices", [{name: value} for name, value in [*NONSENSE, ("layer", "7"), ("link_gbs", "1e99")]]
)
def test_nonsense_counts_as_not_chosen(open_page, traces, choices):
    assert not open_page([traces["plain"]], "consistency", **choices).exception


@pytest.mark.parametrize("name", ["hostile", "bare", "long"])
def test_other_traces(open_page, traces, name):
    test = open_page([traces[name]], "consistency")
    assert not test.exception
    assert len(alt_of(test)) == 3


def test_nothing_yet_and_recording(open_page, tmp_path):
    with open_writer(tmp_path / "norows.duckdb", Shape()):
        test = open_page([tmp_path / "norows.duckdb"], "consistency")
        assert not test.exception
        assert "No routing has been recorded yet" in shown(test)
    with recording_trace(tmp_path / "growing.duckdb", Shape(sequences=128, length=20)):
        assert len(alt_of(open_page([tmp_path / "growing.duckdb"], "consistency"))) == 3


RATES = pd.DataFrame({"layer": [0, 0, 1, 1], "cache_size": [1, 4, 1, 4], "hit_rate": [0.25, 1.0, 0.5, 1.0]})


def test_a_plan_by_hand():
    """Two layers, k = 2, four experts of 10 bytes: 40 bytes hold two in each layer, where 0.5 and 2/3 hit."""
    found = planner.plan(RATES, np.array([2.0, 2.0]), 4, 10, 40)
    assert found.cache_size == 2
    assert found.misses == pytest.approx(2 * 0.5 + 2 * (1 / 3))
    assert found.moved == pytest.approx(10 * found.misses)
    assert found.hit_rate == pytest.approx((0.5 + 2 / 3) / 2)


def test_no_room_moves_everything_and_all_room_nothing():
    none, full = (planner.plan(RATES, np.array([2.0, 2.0]), 4, 10, budget) for budget in (0, 1e9))
    assert (none.cache_size, none.moved) == (0, 40)
    assert (full.cache_size, full.moved, full.hit_rate) == (4, 0, 1)


def test_the_curve_falls_and_the_smallest_budget_is_on_it():
    curve = planner.curve(RATES, np.array([2.0, 2.0]), 4, 10)
    assert curve["cache_size"].tolist() == [0, 1, 2, 3, 4]
    assert (np.diff(curve["moved"]) < 0).all()
    assert planner.smallest(curve, 0.79) == 60


@pytest.mark.parametrize("experts", [1, 2, 8, 64, 128, 256])
def test_sizes_span_all(experts):
    sizes = planner.sizes(experts)
    assert (sizes[0], sizes[-1]) == (1, experts)
    assert len(sizes) <= 16
    assert list(sizes) == sorted(set(sizes))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_figures(theme):
    srp = pd.DataFrame({"level": ["layer", "layer", "model"], "layer": [0, 1, None], "segment_length": 4, "srp": 0.5,
                        "n_windows": 9, "ci_low": 0.4, "ci_high": 0.6})  # fmt: skip
    names = [trace.name for trace in charts.srp_curves(srp, theme, layer=1).data]
    assert names == ["each layer", None, "95 % interval", "whole model", "layer 1"]
    curves = pd.DataFrame({"way": ["LRU", "Belady"], "cache_size": 2, "rate": [0.4, 0.6], "known": [False, True]})
    lines = charts.cache_curves(curves, theme, experts=8, top_k=2).data
    assert [line.line.dash for line in lines] == ["dot", "solid", "dash"]
    frame = planner.curve(RATES, np.array([2.0, 2.0]), 4, 10).assign(policy="LRU")
    assert "nothing is moved" in charts.budget_curve(frame, theme, budget=1e9, all_experts=80).to_json()


def with_sizes(path, told):
    """A trace whose provenance tells the bytes of an expert."""
    write_trace(path, Shape(layers=2))
    with database.writing(path) as con:
        con.execute("UPDATE raw.runs SET provenance = ?", [json.dumps({"expert_bytes": told})])
    return path


def test_the_planner_takes_the_recorded_size(open_page, tmp_path):
    told = {"loaded": {"0": 48 * 1024, "1": 48 * 1024}, "stored": {"0": 24 * 1024, "1": 24 * 1024}}
    test = open_page([with_sizes(tmp_path / "t.duckdb", told)], "consistency")
    assert not test.exception
    box = test.number_input(key="pick_expert_mib")
    assert box.value == pytest.approx(48 / 1024, rel=1e-5)
    assert "48.0 KiB as loaded, 24.0 KiB in the checkpoint" in box.help
    everything = 2 * 16 * 48 * 1024 / GIB
    assert f"all experts: {everything:.3g} GiB"[:20] in shown(test)
    budget = float(f"{everything / 2:.2g}") * GIB
    assert f"hold {int(budget // (2 * 48 * 1024))} of 16 experts in each of 2 layers" in shown(test)


def test_the_planner_asks_where_the_size_is_not_known(open_page, traces):
    test = open_page([traces["plain"]], "consistency")
    assert test.number_input(key="pick_expert_mib").value is None
    assert "was not recorded" in shown(test)
    assert "32 experts are 8 of 16 experts in each of 4 layers" in shown(test)
    assert "KiB" not in alt_of(test)["chart_budget"]
    known = open_page([traces["plain"]], "consistency", expert_mib=12)
    assert "was not recorded" not in shown(known)


def test_layers_of_different_sizes_by_hand():
    """Experts of 10 and 30 bytes: 80 bytes hold two in each layer, where 0.5 and 2/3 hit."""
    sizes = np.array([10.0, 30.0])
    found = planner.plan(RATES, np.array([2.0, 2.0]), 4, sizes, 80)
    assert found.cache_size == 2
    assert found.misses == pytest.approx(2 * 0.5 + 2 / 3)
    assert found.moved == pytest.approx(10 * 2 * 0.5 + 30 * 2 / 3)
    assert planner.total(sizes, 2) == 40
    assert planner.total(10, 2) == 20
