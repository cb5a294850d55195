"""Figures of Super experts: every expert's largest output on a log scale, and the thresholds of the published rule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from app.charts.base import figure_of, grid_of, layer_axis, whole_ticks
from app.formats import number
from app.palette import scale
from app.theme import COLORS

if TYPE_CHECKING:
    import plotly.graph_objects as go

LABELLED = 6  # experts named in the figure; the table names all


def maxima_strip(frame: pd.DataFrame, theme: str, *, scope: int) -> go.Figure:
    """Every expert as a point over its layer, its largest |output component| on a log scale, with both thresholds.

    `frame`: layer, expert, max_abs_output (above 0), is_super, hover (escaped), threshold_percentile, threshold_tenth;
    the rule looks at layers below `scope`.
    """
    import plotly.graph_objects as go

    colors = COLORS[theme]
    traces: list[Any] = []
    for wanted, title, color, size in (
        (False, "expert", colors["accent"], 6),
        (True, "super expert", colors["bad"], 11),
    ):
        part = frame[frame["is_super"].astype(bool) == wanted]
        if len(part):
            opacity = 1.0 if wanted else 0.55
            traces.append(
                go.Scatter(
                    x=part["layer"] + _jitter(part),
                    y=part["max_abs_output"],
                    mode="markers",
                    name=title,
                    text=part["hover"],
                    hovertemplate="%{text}<extra></extra>",
                    marker={
                        "color": color,
                        "size": size,
                        "opacity": opacity,
                        "symbol": "diamond" if wanted else "circle",
                    },
                )
            )
    low, high = float(frame["layer"].min()) - 0.5, min(float(frame["layer"].max()) + 0.5, scope - 0.5)
    for column, title, dash in (
        ("threshold_percentile", "99.5th percentile", "dash"),
        ("threshold_tenth", "a tenth of the largest", "dot"),
    ):
        level = float(frame[column].iloc[0])
        if level > 0:
            line = {"width": 1.8, "dash": dash, "color": colors["second"]}
            traces.append(
                go.Scatter(
                    x=[low, max(high, low)],
                    y=[level] * 2,
                    mode="lines",
                    line=line,
                    name=f"{title}: {number(level)}",
                    hoverinfo="skip",
                )
            )
    figure = figure_of(theme, traces, height=420)
    figure.update_xaxes(title_text="layer", showgrid=False, **layer_axis(frame["layer"]))
    figure.update_yaxes(
        title_text="largest |output component|",
        type="log",
        dtick=_decade(frame["max_abs_output"]),
        minor={"showgrid": False},
    )
    named = frame[frame["is_super"].astype(bool)].nlargest(LABELLED, "max_abs_output")
    for row, x in zip(named.itertuples(), named["layer"] + _jitter(named), strict=True):
        figure.add_annotation(
            x=x, y=float(np.log10(row.max_abs_output)), text=f"{row.layer}·{row.expert}",
            showarrow=False, yshift=14,
            font={"size": 12, "color": colors["ink"]},
        )  # fmt: skip
    if frame["layer"].max() >= scope:
        figure.add_vrect(
            x0=scope - 0.5, x1=float(frame["layer"].max()) + 0.5, fillcolor=colors["surface"], layer="below",
            line_width=0,
            annotation={"text": "not looked at by the rule", "font": {"size": 12, "color": colors["quiet"]}},
            annotation_position="top left",
        )  # fmt: skip
    return figure


def maxima_heatmap(frame: pd.DataFrame, theme: str) -> go.Figure:
    """Layer × expert, coloured by the log of the largest |output component|. `frame`: as `maxima_strip` takes it."""
    import plotly.graph_objects as go

    values, hover = grid_of(frame, "max_abs_output"), grid_of(frame, "hover")
    logs = np.log10(values.to_numpy(float))
    layers, experts = values.index.to_numpy(), values.columns.to_numpy()
    ticks = _ticks(float(np.nanmin(logs)), float(np.nanmax(logs)))
    gap = 1 if len(experts) <= 64 else 0
    heatmap = go.Heatmap(
        z=logs, x=experts, y=np.arange(len(layers)), xgap=gap, ygap=gap, colorscale=scale("sequential", theme),
        text=hover.fillna("not known").to_numpy(), hovertemplate="%{text}<extra></extra>",
        colorbar={"title": {"text": "largest output (log)", "side": "right", "font": {"size": 13}}, "thickness": 12,
                  "outlinewidth": 0, "len": 1, "tickfont": {"size": 13}, "tickvals": ticks,
                  "ticktext": [number(10**tick, 2) for tick in ticks]},
    )  # fmt: skip
    figure = figure_of(theme, [heatmap], height=int(np.clip(24 * len(layers) + 90, 240, 720)))
    figure.update_xaxes(title_text="expert", showgrid=False, **whole_ticks(len(experts)))
    every = max(1, -(-len(layers) // 24))
    figure.update_yaxes(
        title_text="layer", showgrid=False, autorange="reversed", tickvals=np.arange(0, len(layers), every),
        ticktext=[str(layer) for layer in layers[::every]],
    )  # fmt: skip
    return figure


def _jitter(part: pd.DataFrame) -> np.ndarray:
    """Side by side rather than on top of each other, the same every time: by the expert's number."""
    return ((part["expert"].to_numpy() * 0.618034) % 1 - 0.5) * 0.5


def _decade(values: pd.Series) -> float | str:
    """Ticks at the powers of ten; also between them where the values span less than two of them."""
    span = float(np.log10(values.max() / values.min()))
    return 1 if span >= 2 else "D1" if span < 0.7 else "D2"


def _ticks(low: float, high: float) -> list[float]:
    decades = [float(tick) for tick in range(int(np.ceil(low)), int(np.floor(high)) + 1)]
    return decades if len(decades) > 1 else [float(tick) for tick in np.linspace(low, high, 5)]
