"""Figures of pruning: importance and what is kept, how far criteria agree, how much load the kept experts carry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from app.charts.base import figure_of, grid_of, layer_axis, plain, reference_line, whole_ticks
from app.formats import number, percent
from app.palette import scale
from app.theme import COLORS

if TYPE_CHECKING:
    import plotly.graph_objects as go

MOST_CROSSES = 2_048  # cells up to which a dropped expert is crossed out; beyond, the colour must do
CROSS, WIDTH = 3.5, 620  # pixels: half of a cross, and about what a heat-map is wide
# The strokes of a cross, and a gap: where its points are, in halves of its size.
STROKES = np.array([[-1, -1], [1, 1], [np.nan, np.nan], [-1, 1], [1, -1], [np.nan, np.nan]])
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")


def importance_heatmap(frame: pd.DataFrame, theme: str) -> go.Figure:
    """Layer × expert, coloured by the expert's place in its layer (1 = most important); the dropped are crossed out.

    `frame`: layer, expert, importance, rank, keep.
    """
    import plotly.graph_objects as go

    experts = frame.groupby("layer")["expert"].transform("size")
    place = grid_of(frame.assign(place=1 - (frame["rank"] - 1) / (experts - 1).clip(lower=1)), "place")
    value, rank = grid_of(frame, "importance"), grid_of(frame, "rank")
    layers, columns = place.index.to_numpy(), place.columns.to_numpy()
    at = {layer: row for row, layer in enumerate(layers)}
    keep = frame.set_index(["layer", "expert"])["keep"].to_dict()
    hover = [
        [_place(layer, e, value.at[layer, e], rank.at[layer, e], keep.get((layer, e))) for e in columns]
        for layer in layers
    ]
    gap = 1 if len(columns) <= 64 else 0
    traces: list[Any] = [
        go.Heatmap(
            z=place.to_numpy(), x=columns, y=np.arange(len(layers)), zmin=0, zmax=1, xgap=gap, ygap=gap,
            colorscale=scale("sequential", theme), text=hover, hovertemplate="%{text}<extra></extra>",
            colorbar={"title": {"text": "place in its layer", "side": "right", "font": {"size": 13}}, "thickness": 12,
                      "outlinewidth": 0, "tickvals": [0, 0.5, 1], "ticktext": ["last", "middle", "first"]},
        )
    ]  # fmt: skip
    height = int(np.clip(24 * len(layers) + 90, 240, 720))
    dropped = frame[~frame["keep"].astype(bool)]
    if len(frame) <= MOST_CROSSES:
        rows = dropped["layer"].map(at).to_numpy(float)
        arms = (CROSS * len(columns) / WIDTH, CROSS * len(layers) / (height - 70))
        line = {"width": 1.6, "color": COLORS[theme]["second"], "simplify": False}
        traces.append(
            go.Scatter(**_crosses(dropped["expert"].to_numpy(float), rows, arms), mode="lines", line=line,
                       hoverinfo="skip", showlegend=False)
        )  # fmt: skip
    figure = figure_of(theme, traces, height=height)
    figure.update_xaxes(title_text="expert", showgrid=False, **whole_ticks(len(columns)))
    every = max(1, -(-len(layers) // 24))
    ticks = {"tickvals": np.arange(0, len(layers), every), "ticktext": [str(layer) for layer in layers[::every]]}
    figure.update_yaxes(title_text="layer", showgrid=False, range=[len(layers) - 0.5, -0.5], **ticks)
    return figure


def _crosses(x: np.ndarray, y: np.ndarray, arms: tuple[float, float]) -> dict[str, np.ndarray]:
    """Crosses as one line with gaps: a browser draws it at once, but hundreds of markers one by one."""
    wide, high = np.minimum(arms, 0.35)[:, None] * STROKES.T
    return {"x": (x[:, None] + wide).ravel(), "y": (y[:, None] + high).ravel()}


def agreement_matrix(mean: pd.DataFrame, theme: str, *, names: dict[str, str]) -> go.Figure:
    """Criterion × criterion, coloured and labelled with the rank correlation. `mean`: criterion, other, spearman."""
    import plotly.graph_objects as go

    order = [name for name in names if name in set(mean["criterion"])]
    grid = mean.pivot(index="criterion", columns="other", values="spearman").reindex(index=order, columns=order)
    shown = [[f"{value:.2f}" if value == value else "–" for value in row] for row in grid.to_numpy()]
    labels = [names[name] for name in order]
    hover = "<b>%{y} · %{x}</b><br>rank correlation %{text}<extra></extra>"
    least = min(0.0, float(mean["spearman"].min()))
    heatmap = go.Heatmap(
        z=grid.to_numpy(), x=labels, y=labels, zmin=least, zmax=1, text=shown, texttemplate="%{text}", xgap=2, ygap=2,
        colorscale=scale("sequential", theme), hovertemplate=hover, showscale=False, textfont={"size": 13},
    )  # fmt: skip
    figure = figure_of(theme, [heatmap], height=90 + 44 * len(order))
    figure.update_xaxes(showgrid=False, side="bottom", tickangle=0 if len(order) <= 6 else -35, automargin=True)
    figure.update_yaxes(showgrid=False, autorange="reversed", automargin=True)
    return figure


def criteria_curves(
    frame: pd.DataFrame, theme: str, *, x: str, y: str, titles: tuple[str, str], names: dict[str, str], chosen: str,
    reference: float | None = None,
) -> go.Figure:  # fmt: skip
    """One line per criterion, the chosen one in colour and thick. `frame`: criterion, and the columns `x` and `y`."""
    import plotly.graph_objects as go

    colors = COLORS[theme]
    order = [name for name in names if name in set(frame["criterion"]) and name != chosen]
    traces = []
    for at, name in enumerate([*order, chosen]):
        rows, mine = frame[frame["criterion"] == name], name == chosen
        values = rows[y] if y == "n_kept" else rows[y].map(percent)
        text = [f"<b>{names[name]}</b><br>{titles[0]} {_x(a)}<br>{b}" for a, b in zip(rows[x], values, strict=True)]
        line = {"width": 3 if mine else 1.6, "color": colors["accent" if mine else "quiet"]}
        line["dash"] = "solid" if mine else DASHES[at % len(DASHES)]
        traces.append(
            go.Scatter(x=rows[x], y=rows[y], mode="lines", name=names[name], line=line, text=text,
                       hovertemplate="%{text}<extra></extra>")
        )  # fmt: skip
    figure = figure_of(theme, traces, height=330)
    axis = layer_axis(frame[x]) if x == "layer" else {"tickformat": ".0%", "range": [0, 1.02]}
    figure.update_xaxes(title_text=titles[0], showgrid=False, **axis)
    shares = {} if y == "n_kept" else {"tickformat": ".0%", "range": [0, 1.04]}
    figure.update_yaxes(title_text=titles[1], rangemode="tozero", nticks=6, **shares)
    if reference is not None:
        figure.add_vline(x=reference, line={"width": 1.2, "dash": "dash", "color": colors["quiet"]})
    return figure


def evaluated_curves(frame: pd.DataFrame, theme: str, measure: str) -> go.Figure:
    """What keeping a share of the experts leaves, one line per criterion with its 95 % intervals.

    `frame`: criterion, keep (share), value, low, high, baseline, control (mean of the
    controls, NaN for none), control_kind (what they have in common with the keep-list).
    """
    import plotly.graph_objects as go

    colors = COLORS[theme]
    shades = [colors[name] for name in ("accent", "second", "good", "bad", "ink")]
    traces: list[Any] = []
    for at, (criterion, rows) in enumerate(frame.groupby("criterion", sort=True)):
        spread = {"type": "data", "symmetric": False, "array": rows["high"] - rows["value"],
                  "arrayminus": rows["value"] - rows["low"], "thickness": 1.4}  # fmt: skip
        line = {"width": 2.2, "color": shades[at % len(shades)], "dash": DASHES[at % len(DASHES)]}
        traces.append(
            go.Scatter(x=rows["keep"], y=rows["value"], error_y=spread, mode="lines+markers", name=plain(criterion),
                       line=line, marker={"size": 7})
        )  # fmt: skip
    for kind, rows in frame.dropna(subset=["control"]).groupby("control_kind", sort=True):
        controls = rows.groupby("keep", as_index=False)["control"].mean()
        name = "random" if kind == "count-matched" else f"{plain(str(kind))} lists"
        traces.append(
            go.Scatter(x=controls["keep"], y=controls["control"], mode="lines+markers", name=name,
                       line={"width": 1.8, "dash": "dot", "color": colors["quiet"]},
                       marker={"symbol": "diamond-open", "size": 8})
        )  # fmt: skip
    figure = figure_of(theme, traces, height=330)
    figure.update_layout(showlegend=True)
    figure.update_xaxes(title_text="share of experts kept", tickformat=".0%", range=[0, 1.02], showgrid=False)
    figure.update_yaxes(title_text=plain(measure), rangemode="tozero", nticks=6)
    baseline = frame["baseline"].dropna()
    if len(baseline):
        reference_line(figure, (float(baseline.iloc[0]), "baseline"), colors)
    return figure


def _place(layer: int, expert: int, value: float, rank: float, keep: bool | None) -> str:
    head = f"<b>Layer {layer} · expert {expert}</b><br>"
    if keep is None or rank != rank:
        return f"{head}no such expert"
    known = f"importance {number(value)}" if value == value else "never chosen"
    return f"{head}{known}, place {int(rank)}<br>{'kept' if keep else 'dropped'}"


def _x(value: float) -> str:
    """A layer as its number, a share as percent."""
    return str(value) if isinstance(value, int | np.integer) else percent(value)
