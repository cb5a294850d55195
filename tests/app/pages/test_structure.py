"""The Structure page: pairs, flows and clusters as the metrics give them, on every kind of trace."""

import numpy as np
import pandas as pd
import pytest

from app import charts
from app.pages.structure import FLOWS, _ties, _top_flows
from app.palette import expert_color
from probes.analysis import analyze
from store.trace import open_trace
from tests.app.conftest import shown
from tests.app.traces import Shape, open_writer, recording_trace, write_trace


def alts(test):
    return {
        element.proto.id.split("-")[-1]: element.proto.alt for element in test.get("plotly_chart") if element.proto.alt
    }


def test_the_stories_of_a_trace_without_output_moments(open_page, traces):
    test = open_page([traces["plain"]], "structure")
    assert not test.exception
    assert set(alts(test)) == {"chart_coactivation", "chart_ties", "chart_flow", "chart_information"}
    assert all(len(alt) > 50 for alt in alts(test).values())
    assert "--capture for=expert_similarity" in shown(test)  # what the last story needs


def test_similarity_and_clusters_where_the_trace_holds_moments(open_page, olmoe_folder, prompts_file, tmp_path):
    from probes.recording.options import RecordOptions
    from probes.recording.record import record

    options = RecordOptions(capture=("ids", "weights", "moments"), limit=12)
    record(olmoe_folder, prompts_file, tmp_path / "m.duckdb", options=options)
    test = open_page([tmp_path / "m.duckdb"], "structure", layer=1, clusters=3)
    assert not test.exception
    assert {"chart_similarity", "chart_clusters"} <= set(alts(test))
    table = analyze(tmp_path / "m.duckdb", "expert_similarity", layers=[1])
    assert f"cosine {table['similarity'].max():.3f}" in shown(test)
    found = analyze(tmp_path / "m.duckdb", "expert_clusters", clusters=3)
    assert (found.dropna(subset=["cluster"]).groupby("layer")["cluster"].nunique() <= 3).all()
    assert "layer 2" in shown(test)


def test_words_are_those_of_the_metric(open_page, traces):
    pairs = analyze(open_trace(traces["plain"]), "coactivation", layers=[4]).astype({"expert": int, "other": int})
    top = _ties(pairs).iloc[0]
    text = shown(open_page([traces["plain"]], "structure", layer=4))
    assert f"Experts {int(top['expert'])} and {int(top['other'])} go together most" in text


def test_an_expert_can_be_marked(open_page, traces):
    test = open_page([traces["plain"]], "structure", layer=3, expert=5)
    assert not test.exception
    assert "Expert 5 goes with" in shown(test)


CHOICES = [{"pairs": "lift_distinct"}, {"pairs": "conditional", "order": "by number"}, {"flows": "above chance"}]


@pytest.mark.parametrize("choices", [*CHOICES, {"pairs": "x", "order": "y", "clusters": "z"}])
def test_choices(open_page, traces, choices):
    test = open_page([traces["plain"]], "structure", **choices)
    assert not test.exception
    assert len(alts(test)) == 4


@pytest.mark.parametrize("name", ["hostile", "bare", "long"])
def test_other_traces(open_page, traces, name):
    assert not open_page([traces[name]], "structure").exception


@pytest.mark.parametrize("shape", [Shape(sequences=8, top_k=1, layers=1), Shape(sequences=8, experts=2, layers=2)])
def test_small_models(open_page, tmp_path, shape):
    test = open_page([write_trace(tmp_path / "small.duckdb", shape)], "structure")
    assert not test.exception
    if shape.top_k == 1:
        assert "none are chosen together" in shown(test)
        assert "one MoE layer" in shown(test)


def test_nothing_yet_and_recording(open_page, tmp_path):
    with open_writer(tmp_path / "norows.duckdb", Shape()):
        test = open_page([tmp_path / "norows.duckdb"], "structure")
        assert not test.exception
        assert "No routing has been recorded yet" in shown(test)
    with recording_trace(tmp_path / "growing.duckdb", Shape(sequences=128, length=20)):
        assert len(alts(open_page([tmp_path / "growing.duckdb"], "structure"))) == 4


def test_flows_by_hand():
    """Of 30 tokens 20 go 0→0 and 10 go 1→1: each twice and three times what chance would send."""
    table = pd.DataFrame({"layer": 0, "expert": [0, 0, 1, 1], "next_layer": 1, "next_expert": [0, 1, 0, 1],
                          "n": [20, 0, 0, 10], "share": [1.0, 0, 0, 1.0]})  # fmt: skip
    flows = _top_flows(table, "tokens", 0, None)
    assert flows[["expert", "next_expert", "n"]].values.tolist() == [[0, 0, 20], [1, 1, 10]]
    assert flows["lift"].tolist() == pytest.approx([1.5, 3.0])
    assert _top_flows(table, "above chance", 0, None)["n"].tolist() == [20]  # ten tokens say too little
    assert _top_flows(table, "tokens", 0, 1)["expert"].tolist() == [1]


def test_flows_are_bounded_for_each_pair_of_layers():
    rng = np.random.default_rng(0)
    rows = [
        (layer, a, layer + 1, b, int(rng.integers(1, 99)), 0.1) for layer in (0, 1) for a in range(9) for b in range(9)
    ]
    table = pd.DataFrame(rows, columns=["layer", "expert", "next_layer", "next_expert", "n", "share"])
    assert _top_flows(table, "tokens", 0, None).groupby("layer").size().tolist() == [FLOWS, FLOWS]


def pairs_frame(experts=6):
    rng = np.random.default_rng(1)
    rows = [(a, b) for a in range(experts) for b in range(experts) if a != b]
    frame = pd.DataFrame(rows, columns=["expert", "other"])
    near = (frame["expert"] // 2) == (frame["other"] // 2)
    npmi = np.where(near, 0.6, -0.2)
    return frame.assign(
        npmi_distinct=npmi, lift_distinct=2.0**npmi, conditional=rng.random(len(frame)), n_ij=np.where(near, 40, 0)
    )


def test_alike_experts_stand_together():
    order = charts.clustered(pairs_frame().sample(frac=1, random_state=0), "npmi_distinct", 6)
    assert sorted(order) == list(range(6))
    assert all(order[at] // 2 == order[at + 1] // 2 for at in (0, 2, 4))
    assert charts.clustered(pairs_frame().assign(npmi_distinct=np.nan), "npmi_distinct", 6) == list(range(6))


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("measure", ["npmi_distinct", "lift_distinct", "conditional"])
def test_the_matrix_holds_what_was_given_in_the_order_asked_for(theme, measure):
    frame, order = pairs_frame(), [5, 3, 1, 0, 2, 4]
    heatmap = charts.pair_heatmap(frame, theme, measure=measure, order=order).data[0]
    z = np.asarray(heatmap.z, float)
    value = frame.set_index(["expert", "other"]).loc[(5, 3), measure]
    assert z[0, 1] == pytest.approx(np.log2(value) if measure == "lift_distinct" else value)
    assert np.isnan(np.diag(z)).all()
    assert "tokens chose both" in heatmap.text[0][1]
    if measure != "conditional":
        assert heatmap.zmin == -heatmap.zmax


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_ties_flows_and_clusters_become_figures(theme):
    load = pd.DataFrame({"expert": range(6), "share": 1 / 6})
    ties = _ties(pairs_frame())
    figure = charts.tie_graph(ties, load, theme, order=list(range(6)), chosen=0)
    lines, dots = figure.data[:-1], figure.data[-1]
    assert len(dots.x) == 6
    assert sum(np.isnan(np.asarray(line.x, float)).sum() for line in lines) == len(ties) == 3
    said = {text.split("<br>")[0] for line in lines for text in line.text}
    assert said == {f"<b>experts {a} and {b}</b>" for a, b in zip(ties["expert"], ties["other"], strict=True)}
    widths = {line.line.color: [] for line in lines}
    for line in lines:
        widths[line.line.color].append(line.line.width)
    assert all(found == sorted(found) for found in widths.values())  # the strongest on top
    flows = pd.DataFrame({"layer": [0, 1], "expert": [1, 2], "next_layer": [1, 2], "next_expert": [2, 0], "n": [5, 6],
                          "share": 0.5, "lift": 2.0})  # fmt: skip
    sankey = charts.flow_sankey(flows, theme, num_experts=3).data[0]
    assert (list(sankey.link.source), list(sankey.link.target)) == ([0, 1], [1, 2])
    frame = pd.DataFrame({"layer": 0, "expert": range(3), "cluster": pd.array([0, 0, None], "Int64")})
    strip = charts.cluster_strip(frame, theme, num_experts=3).data[0]
    assert "gave no output" in strip.text[0][2]
    edges = [position for position, _ in strip.colorscale]
    assert edges == sorted(edges)
    assert strip.colorscale[2][1] == strip.colorscale[3][1] == expert_color(1, 3)
