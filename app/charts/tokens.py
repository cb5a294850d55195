"""Figures of the Tokens page: one token through the layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from app.charts.base import figure_of, layer_axis
from app.theme import COLORS

if TYPE_CHECKING:
    import plotly.graph_objects as go


def token_curve(frame: pd.DataFrame, theme: str, *, name: str) -> go.Figure:
    """A token's value per layer against the mean of its sequence. `frame`: layer, value, mean, n."""
    import plotly.graph_objects as go

    colors = COLORS[theme]
    mean = go.Scatter(
        x=frame["layer"],
        y=frame["mean"],
        mode="lines",
        name="mean of the sequence",
        line={"width": 2, "dash": "dot", "color": colors["quiet"]},
        customdata=frame["n"],
        hovertemplate="mean of %{customdata:,} tokens: %{y:.3f}<extra></extra>",
    )
    value = go.Scatter(
        x=frame["layer"],
        y=frame["value"],
        mode="lines+markers",
        name="this token",
        line={"width": 2.5, "color": colors["accent"]},
        marker={"size": 7},
        hovertemplate="<b>Layer %{x}</b><br>this token: %{y:.3f}<extra></extra>",
    )
    figure = figure_of(theme, [mean, value], height=260)
    figure.update_xaxes(title_text="layer", showgrid=False, **layer_axis(frame["layer"], most=9))
    figure.update_yaxes(title_text=name, rangemode="tozero", nticks=5)
    return figure
