"""Figures of Uncertainty: a value per layer for every label, and how many experts tokens would need."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from app.charts.base import band, figure_of, layer_axis, plain, shortened, whole_ticks
from app.formats import number, plural
from app.palette import category_color
from app.theme import COLORS

if TYPE_CHECKING:
    import plotly.graph_objects as go


def label_lines(
    whole: pd.DataFrame, labels: pd.DataFrame, theme: str, *, name: str, top: float | None = None
) -> go.Figure:
    """One value per layer over all tokens, with its 95 % interval, and thin lines for the labels.

    `whole`: layer, value, low, high, n; `labels`: layer, label, value, n, the labels in the order of their colours.
    """
    import plotly.graph_objects as go

    colors = COLORS[theme]
    traces: list[Any] = [*band(whole, colors["ink"])] if whole["low"].notna().any() else []
    for place, label in enumerate(dict.fromkeys(labels["label"])):
        part = labels[labels["label"] == label]
        traces.append(_line(go, part, str(label), category_color(place), 1.6, "dot" if place >= 10 else "solid"))
    traces.append(_line(go, whole, "all tokens", colors["ink"], 3, "solid"))
    figure = figure_of(theme, traces, height=360)
    figure.update_xaxes(title_text="layer", showgrid=False, **layer_axis(whole["layer"]))
    known = [*whole["value"].dropna(), *whole["high"].dropna(), *labels["value"].dropna(), 1e-9]
    figure.update_yaxes(title_text=name, range=[min(0.0, min(known)), top or max(known) * 1.08], nticks=6)
    return figure


def needed_bars(histogram: np.ndarray, top_k: int, theme: str) -> go.Figure:
    """How many tokens of a layer need 1, 2, … experts. `histogram` [E]: tokens; the bar at `top_k` is set off."""
    import plotly.graph_objects as go

    colors, n = COLORS[theme], max(int(histogram.sum()), 1)
    needed = np.arange(1, len(histogram) + 1)
    hover = [
        f"<b>{plural(int(k), 'expert')}</b><br>{plural(c, 'token')} ({c / n:.1%})"
        for k, c in zip(needed, histogram, strict=True)
    ]
    bars = go.Bar(
        x=needed,
        y=histogram / n,
        text=hover,
        textposition="none",
        hovertemplate="%{text}<extra></extra>",
        marker={"color": np.where(needed == top_k, colors["second"], colors["accent"])},
    )
    figure = figure_of(theme, [bars], height=280)
    axis = whole_ticks(len(histogram) + 1)
    figure.update_xaxes(title_text="experts needed", showgrid=False, **axis | {"range": [0.4, len(histogram) + 0.6]})
    figure.update_yaxes(title_text="share of tokens", tickformat=".0%", rangemode="tozero", nticks=5)
    return figure


def needed_curve(frame: pd.DataFrame, theme: str, *, top_k: int) -> go.Figure:
    """Mean experts needed per layer, a line for each p. `frame`: layer, p, mean, ci_low, ci_high, n_tokens."""
    import plotly.graph_objects as go

    colors = COLORS[theme]
    shades = [colors["quiet"], colors["accent"], colors["second"], colors["good"], colors["bad"]]
    traces: list[Any] = []
    for place, (p, part) in enumerate(frame.groupby("p")):
        part = part.rename(columns={"mean": "value", "ci_low": "low", "ci_high": "high", "n_tokens": "n"})
        shade = shades[place % len(shades)]
        if part["low"].notna().any():
            traces += [trace.update(showlegend=False) for trace in band(part, shade)]
        traces.append(_line(go, part, f"p = {p:g}", shade, 2.4, "solid"))
    ends = [frame["layer"].min() - 0.4, frame["layer"].max() + 0.4]
    dashed = {"width": 1.6, "dash": "dash", "color": colors["quiet"]}
    own = f"top-k of this model: {top_k}"
    traces.append(go.Scatter(x=ends, y=[top_k] * 2, mode="lines", line=dashed, name=own, hoverinfo="skip"))
    figure = figure_of(theme, traces, height=320)
    figure.update_xaxes(title_text="layer", showgrid=False, **layer_axis(frame["layer"]))
    top = max(float(np.nanmax(frame[["mean", "ci_high"]].to_numpy())), top_k) * 1.1
    figure.update_yaxes(title_text="mean number of experts", range=[0, top], nticks=7)
    return figure


def _line(go: Any, part: pd.DataFrame, title: str, color: str, width: float, dash: str) -> Any:
    interval = part["low"].notna() if "low" in part else pd.Series(False, index=part.index)
    hover = [
        f"<b>{plain(title)} · layer {row.layer}</b><br>{number(row.value)}"
        + (f" [{number(row.low)}, {number(row.high)}]" if has else "")
        + f"<br>{plural(row.n, 'token')}"
        for row, has in zip(part.itertuples(), interval, strict=True)
    ]
    return go.Scatter(
        x=part["layer"],
        y=part["value"],
        name=plain(shortened(title)),
        mode="lines+markers",
        text=hover,
        hovertemplate="%{text}<extra></extra>",
        line={"width": width, "color": color, "dash": dash},
        marker={"size": 7 if width > 2 else 4},
    )
