"""Figures: what is drawn is what was given, on both themes, and foreign words stay words."""

import numpy as np
import pandas as pd
import pytest

from app import charts

THEMES = ("light", "dark")


def load_frame(layers=(0, 1, 3), experts=8):
    rows = [(layer, expert, 10 * (expert + 1)) for layer in layers for expert in range(experts)]
    frame = pd.DataFrame(rows, columns=["layer", "expert", "count"])
    frame["share"] = frame["count"] / frame.groupby("layer")["count"].transform("sum")
    return frame.assign(ratio=frame["share"] * experts)


def curve_frame(low=0.4, high=0.8):
    return pd.DataFrame({"layer": [0, 1, 2], "value": [0.5, 0.6, 0.7], "low": low, "high": high, "n": 100})


@pytest.mark.parametrize("theme", THEMES)
def test_heatmap_shows_every_layer_and_expert(theme):
    figure = charts.load_heatmap(load_frame(), theme)
    assert np.asarray(figure.data[0].z).shape == (3, 8)
    assert list(figure.layout.yaxis.ticktext) == ["0", "1", "3"]
    assert figure.layout.yaxis.autorange == "reversed"  # layer 0 on top, as the model is read
    assert "30 tokens" in figure.data[0].text[0][2]


def test_heatmap_leaves_experts_out_that_a_layer_does_not_have():
    frame = pd.concat([load_frame((0,), 8), load_frame((1,), 4)])
    figure = charts.load_heatmap(frame, "light")
    assert np.isnan(np.asarray(figure.data[0].z, float)[1, 4:]).all()


def test_the_scale_is_not_owned_by_one_expert():
    ratio = pd.Series([1.0] * 999 + [60.0])
    assert charts.load_cap(ratio) == 2.0
    assert charts.load_cap(pd.Series([np.nan])) == 2.0


def test_a_cut_scale_says_so():
    frame = load_frame((0,), 256)
    frame.loc[3, "ratio"] = 90.0
    names = charts.load_heatmap(frame, "light").data[0].colorbar.ticktext
    assert names[-1].startswith("≥")
    assert names[0] == "0×"


@pytest.mark.parametrize("experts", [8, 16, 64, 128, 256])
def test_ticks_do_not_crowd(experts):
    axis = charts.load_heatmap(load_frame((0,), experts), "light").layout.xaxis
    assert experts / axis.dtick <= 17


@pytest.mark.parametrize("theme", THEMES)
def test_curve_has_a_band_only_where_there_is_an_interval(theme):
    assert len(charts.layer_curve(curve_frame(), theme, name="x").data) == 3
    assert len(charts.layer_curve(curve_frame(np.nan, np.nan), theme, name="x").data) == 1


def test_curve_starts_at_zero_and_holds_the_reference():
    figure = charts.layer_curve(curve_frame(), "light", name="x", reference=(2.0, "all equal"))
    low, high = figure.layout.yaxis.range
    assert low == 0
    assert high > 2


def test_curve_says_n_and_interval():
    text = charts.layer_curve(curve_frame(), "light", name="x").data[-1].text[0]
    assert "100 tokens" in text
    assert "0.400 to 0.800" in text


def test_coverage_is_split_by_reason_and_reasons_are_escaped():
    frame = pd.DataFrame(
        {
            "layer": [0, 0, 1],
            "reason": ["a", "<a href='x'>b</a>", "a"],
            "n_missing": [1, 2, 3],
            "n_tokens": [10, 10, 10],
        }
    )
    figure = charts.coverage_bars(frame, "light")
    assert {trace.name for trace in figure.data} == {"a", "&lt;a href=&#x27;x&#x27;&gt;b&lt;/a&gt;"}


@pytest.mark.parametrize("theme", THEMES)
def test_token_curve(theme):
    frame = pd.DataFrame({"layer": [1, 2], "value": [0.5, np.nan], "mean": [0.4, 0.6], "n": [9, 9]})
    assert [trace.name for trace in charts.token_curve(frame, theme, name="x").data] == [
        "mean of the sequence",
        "this token",
    ]


@pytest.mark.parametrize("theme", THEMES)
def test_figures_have_our_look_and_become_json(theme):
    for figure in (charts.load_heatmap(load_frame(), theme), charts.layer_curve(curve_frame(), theme, name="x")):
        assert figure.layout.template.layout.font.family.startswith("'Source Sans'")
        assert figure.layout.height >= 240
        assert "NaN" not in figure.to_json()


def test_the_modebar_saves_and_leads_nowhere():
    config = charts.modebar("load", "svg")
    assert config["toImageButtonOptions"]["format"] == "svg"
    assert config["displaylogo"] is False
