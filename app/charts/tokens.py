"""Figures of the Tokens page: one token through the layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from app.charts.base import figure_of, layer_axis
from app.formats import number, percent
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


def logit_bars(frame: pd.DataFrame, theme: str) -> go.Figure:
    """A token's logits over all experts, the highest first; the chosen ones set off from the rest.

    `frame`: expert, logit, probability, chosen.
    """
    import plotly.graph_objects as go

    colors, chosen = COLORS[theme], frame["chosen"].to_numpy(bool)
    # From the lowest up: logits have no natural 0, what counts is how far one stands above another.
    floor = float(frame["logit"].min()) - 0.04 * float(np.ptp(frame["logit"]) or 1)
    hover = [
        f"<b>Expert {row.expert}</b>{', chosen' if row.chosen else ''}<br>logit {number(row.logit)}, "
        f"score {percent(row.probability)}"
        for row in frame.itertuples()
    ]
    traces = [
        go.Bar(
            x=np.flatnonzero(wanted),
            y=(frame["logit"] - floor)[wanted],
            base=floor,
            name=name,
            text=[hover[at] for at in np.flatnonzero(wanted)],
            textposition="none",
            hovertemplate="%{text}<extra></extra>",
            marker={"color": color},
        )
        for wanted, name, color in ((chosen, "chosen", colors["accent"]), (~chosen, "the rest", colors["quiet"]))
    ]
    figure = figure_of(theme, traces, height=260)
    shown = np.arange(0, len(frame), max(1, -(-len(frame) // 24)))
    figure.update_xaxes(
        title_text="expert, by its logit", showgrid=False, tickangle=0, tickvals=shown,
        ticktext=[str(frame["expert"].iloc[at]) for at in shown],
    )  # fmt: skip
    figure.update_yaxes(title_text="logit", nticks=6)
    figure.update_layout(bargap=0.2)
    return figure
