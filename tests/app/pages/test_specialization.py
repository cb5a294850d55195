"""Specialization: what is shown is what the metrics say, and every state of a trace has a page."""

import numpy as np
import pandas as pd
import pytest

from app import charts
from app.tables import atlas
from app.tables.specialization import clustered, furthest, largest_labels, strongest
from probes.analysis import analyze
from store import page_queries
from store.trace import open_trace
from tests.app.conftest import shown
from tests.app.pages.states import charts_of


class TestThePage:
    def test_tells_the_story(self, open_page, traces):
        test = open_page([traces["plain"]], "specialization")
        assert not test.exception
        charts = charts_of(test)
        assert set(charts) == {"chart_labels", "chart_label-depth", "chart_contrast"}
        assert all(len(proto.alt) > 40 for proto in charts.values())
        best = strongest(analyze(traces["plain"], "npmi")).set_index(["layer", "target"])
        top = best.loc[3].sort_values("npmi").iloc[-1]
        assert f"with expert {int(top['expert'])} ({top['npmi']:.3f})" in shown(test)

    @pytest.mark.parametrize("choices", [{"value": "share"}, {"order": "numbers"}, {"label_a": "sums"}, {"layer": 99}])
    def test_choices(self, open_page, traces, choices):
        assert not open_page([traces["plain"]], "specialization", **choices).exception

    def test_markers(self, open_page, traces):
        test = open_page([traces["plain"]], "specialization", compare="markers", marker_a=" the", marker_b=" 47")
        assert not test.exception
        assert "chart_contrast" in charts_of(test)
        none = open_page([traces["plain"]], "specialization", compare="markers", marker_a="<b>nowhere")
        assert "does not occur" in shown(none)
        assert "<b>nowhere" not in shown(none)

    @pytest.mark.parametrize(("what", "by"), [("experts", "label"), ("tokens", "expert"), ("tokens", "entropy")])
    def test_the_map_is_drawn_on_request(self, open_page, traces, what, by):
        test = open_page([traces["hostile"]], "specialization", atlas=what, method="pca", atlas_by=by)
        assert "chart_atlas" not in charts_of(test)
        next(button for button in test.button if button.label == "Draw the map").click().run()
        assert not test.exception
        assert "chart_atlas" in charts_of(test)

    def test_hostile_tokens_and_labels_stay_text(self, open_page, traces):
        text = shown(open_page([traces["hostile"]], "specialization"))
        assert "<img" not in text
        assert "<script" not in text

    def test_without_labels(self, open_page, unlabelled):
        test = open_page([unlabelled], "specialization")
        assert not test.exception
        assert "have no labels" in shown(test)

    def test_without_logits(self, open_page, traces):
        test = open_page([traces["bare"]], "specialization", atlas="tokens", method="pca", atlas_by="entropy")
        next(button for button in test.button if button.label == "Draw the map").click().run()
        assert not test.exception
        assert "Colour by something else" in shown(test)


class TestArithmetic:
    def test_clusters_put_alike_beside_alike(self):
        grid = pd.DataFrame([[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1]], index=list("abcd"))
        ordered = clustered(grid)
        assert sorted(ordered.index) == list("abcd")
        assert {frozenset(ordered.index[:2]), frozenset(ordered.index[2:])} == {frozenset("ac"), frozenset("bd")}
        assert {frozenset(ordered.columns[:2])} <= {frozenset((0, 2)), frozenset((1, 3))}
        assert clustered(grid.iloc[:2]).index.tolist() == ["a", "b"]

    def test_the_labels_with_most_tokens(self):
        table = pd.DataFrame({"target": ["x", "y", "z"], "n_x": [5, 1, 9]})
        assert largest_labels(table, 2) == ["x", "z"]

    def test_the_labels_that_differ_most(self):
        rows = pd.DataFrame({"layer": [0, 1, 1], "a": list("abc"), "b": list("xyz"), "l2": [9.0, 0.1, 0.5]})
        assert furthest(rows) == ("c", "z")
        assert furthest(rows.assign(l2=np.nan)) is None

    def test_vocabulary_shares_agree_with_the_metric(self, traces):
        trace = open_trace(traces["plain"])
        ids = trace.drawn(1)["sequence_id"].tolist()
        rows = page_queries.token_experts(trace, 1, 2, ids, 1, 10**6)
        metric = analyze(trace, "vocabulary_specialization", layers=[2])
        assert rows["share"].mean() == pytest.approx(metric["value"].iloc[0])
        assert len(rows) == metric["n_vocabulary"].iloc[0]


class TestAtlas:
    def test_alike_experts_lie_near(self, traces):
        trace = open_trace(traces["plain"])
        rows, features = atlas.experts(trace, 1, trace.drawn(1)["sequence_id"].tolist())
        assert len(rows) == len(features)
        np.testing.assert_allclose((features**2).sum(axis=1), 1)
        load = analyze(trace, "load").set_index(["layer", "expert"])["count"]
        assert (load.loc[list(zip(rows["layer"], rows["expert"], strict=True))].to_numpy() == rows["n"]).all()

    def test_tokens_have_their_scores(self, traces):
        trace = open_trace(traces["plain"])
        rows, features = atlas.tokens(trace, 1, [0, 5], 2)
        assert len(rows) == 120
        assert (features.argmax(axis=1) == rows["expert"]).mean() > 0.95
        bare, weights = atlas.tokens(open_trace(traces["bare"]), 1, [0], 2)
        assert ((weights > 0).sum(axis=1) == 2).all()
        assert bare["entropy"].isna().all()

    def test_pca_keeps_distances_of_a_plane(self):
        points = np.random.default_rng(0).normal(size=(20, 2)) @ np.random.default_rng(1).normal(size=(2, 9))
        flat = atlas.layout(points, "pca")
        own, drawn = (np.linalg.norm(x[:, None] - x[None], axis=2) for x in (points, flat))
        np.testing.assert_allclose(own, drawn, atol=1e-9)

    @pytest.mark.slow
    def test_umap_puts_two_groups_apart(self):
        rng = np.random.default_rng(0)
        points = np.concatenate([rng.normal(0, 0.1, (40, 5)), rng.normal(5, 0.1, (40, 5))])
        flat = atlas.layout(points, "umap")
        centers = flat[:40].mean(axis=0), flat[40:].mean(axis=0)
        assert np.linalg.norm(centers[0] - centers[1]) > 3 * flat[:40].std()


@pytest.mark.parametrize("theme", ["light", "dark"])
class TestFigures:
    def test_heatmap_is_even_around_chance(self, theme):
        grid = pd.DataFrame([[0.3, -1.0], [0.1, np.nan]], index=["a", "<b>x</b>"], columns=[4, 7])
        figure = charts.label_heatmap(grid, theme, name="nPMI", across="expert")
        assert (figure.data[0].zmin, figure.data[0].zmax) == (-0.3, 0.3)
        assert list(figure.layout.yaxis.ticktext) == ["a", "&lt;b&gt;x&lt;/b&gt;"]
        assert list(figure.layout.xaxis.ticktext) == ["4", "7"]
        assert "never together" in figure.data[0].text[0][1]

    def test_contrast_pales_what_is_noise(self, theme):
        frame = pd.DataFrame({"layer": [0, 1], "expert": [3, 4], "value": [0.5, -0.2], "low": [0.4, -0.3],
                              "high": [0.6, 0.1], "sure": [True, False], "hover": "x"})  # fmt: skip
        figure = charts.contrast_bars(frame, theme, name="d", sides=("<a>", "b"))
        assert list(figure.data[0].marker.opacity) == [1.0, 0.35]
        assert figure.data[0].marker.color[0] != figure.data[0].marker.color[1]
        assert any("&lt;a&gt;" in note.text for note in figure.layout.annotations)

    def test_atlas_colours(self, theme):
        points = pd.DataFrame({"x": range(30), "y": range(30), "hover": "h", "c": ["<b>"] * 20 + [None] * 10, "v": 1.0})
        names = [trace.name for trace in charts.atlas(points, theme, by="c", kind="category").data]
        assert names == ["&lt;b&gt;", "none"]
        assert len(charts.atlas(points, theme, by="v", kind="amount").data) == 1
