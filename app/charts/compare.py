"""Figures of two runs side by side: where the load moved, and one value per layer of both."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from app.charts.base import figure_of, grid_of, layer_axis, plain, whole_ticks
from app.formats import number, percent
from app.palette import scale
from app.theme import COLORS

if TYPE_CHECKING:
    import plotly.graph_objects as go


def difference_heatmap(experts: pd.DataFrame, theme: str) -> go.Figure:
    """Layer × expert, coloured by how much more (or less) of its layer's load the expert has in run b.

    `experts`: layer, expert, share_a, share_b, difference. The unit is the uniform load: +1 = one whole fair share
    more. The scale ends where 99 % of the differences do, the same either way.
    """
    import plotly.graph_objects as go

    per_layer = experts.groupby("layer")["expert"].transform("size")
    drawn = grid_of(experts.assign(moved=experts["difference"] * per_layer), "moved")
    before, after = grid_of(experts, "share_a"), grid_of(experts, "share_b")
    layers, columns = drawn.index.to_numpy(), drawn.columns.to_numpy()
    known = np.abs(drawn.to_numpy())
    cap = max(0.1, float(np.nanquantile(known, 0.99))) if np.isfinite(known).any() else 1.0
    hover = [
        [_moved(layer, e, before.at[layer, e], after.at[layer, e], drawn.at[layer, e]) for e in columns]
        for layer in layers
    ]
    gap = 1 if len(columns) <= 64 else 0
    heatmap = go.Heatmap(
        z=drawn.to_numpy(), x=columns, y=np.arange(len(layers)), zmin=-cap, zmax=cap, xgap=gap, ygap=gap,
        colorscale=scale("diverging", theme), text=hover, hovertemplate="%{text}<extra></extra>",
        colorbar={"title": {"text": "fair shares gained", "side": "right", "font": {"size": 13}}, "thickness": 12,
                  "outlinewidth": 0, "nticks": 7, "tickformat": "+.2~f"},
    )  # fmt: skip
    figure = figure_of(theme, [heatmap], height=int(np.clip(24 * len(layers) + 90, 240, 720)))
    figure.update_xaxes(title_text="expert", showgrid=False, **whole_ticks(len(columns)))
    every = max(1, -(-len(layers) // 24))
    ticks = {"tickvals": np.arange(0, len(layers), every), "ticktext": [str(layer) for layer in layers[::every]]}
    figure.update_yaxes(title_text="layer", showgrid=False, autorange="reversed", **ticks)
    return figure


def pair_curves(
    frame: pd.DataFrame, theme: str, *, name: str, names: tuple[str, str], top: float | None = None
) -> go.Figure:
    """One value per layer of run a and of run b. `frame`: layer, a, b; `names`: what the two are called."""
    import plotly.graph_objects as go

    colors = COLORS[theme]
    styles = [(colors["quiet"], "dot", "circle-open"), (colors["accent"], "solid", "circle")]
    traces = [
        go.Scatter(
            x=frame["layer"], y=frame[column], mode="lines+markers", name=plain(called),
            line={"width": 2.5, "color": color, "dash": dash}, marker={"size": 7, "symbol": symbol},
            text=[f"<b>Layer {layer}</b><br>{plain(called)}: {number(value)}" for layer, value in
                  zip(frame["layer"], frame[column], strict=True)],
            hovertemplate="%{text}<extra></extra>",
        )
        for column, called, (color, dash, symbol) in zip("ab", names, styles, strict=True)
    ]  # fmt: skip
    figure = figure_of(theme, traces, height=300)
    figure.update_xaxes(title_text="layer", showgrid=False, **layer_axis(frame["layer"]))
    ends = {"range": [0, top * 1.04]} if top is not None else {"rangemode": "tozero"}
    figure.update_yaxes(title_text=name, nticks=6, **ends)
    return figure


def _moved(layer: int, expert: int, before: float, after: float, moved: float) -> str:
    head = f"<b>Layer {layer} · expert {expert}</b><br>"
    if moved != moved:
        return f"{head}no such expert, or nothing recorded"
    return f"{head}{percent(before)} of the load, then {percent(after)}<br>{moved:+.2f} fair shares"
