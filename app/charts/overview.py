"""Figures of the Overview: load, one value per layer, coverage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from app.charts.base import band, figure_of, from_zero, grid_of, layer_axis, plain, reference_line, whole_ticks
from app.formats import count, number, percent, plural
from app.palette import scale
from app.theme import COLORS

if TYPE_CHECKING:
    import plotly.graph_objects as go


def load_heatmap(load: pd.DataFrame, theme: str) -> go.Figure:
    """Layer × expert, coloured by load over the uniform load (1 = what the expert would get if all got the same).

    `load`: layer, expert, count, share (of the layer's assignments), ratio. Experts a layer does not have stay empty.
    The scale ends at `load_cap`, so that one overloaded expert does not make all others look alike.
    """
    import plotly.graph_objects as go

    ratio, shown = grid_of(load, "ratio"), grid_of(load, "count")
    layers, experts = ratio.index.to_numpy(), ratio.columns.to_numpy()
    cap = load_cap(load["ratio"])
    hover = [
        [_load_hover(layer, expert, shown.at[layer, expert], ratio.at[layer, expert]) for expert in experts]
        for layer in layers
    ]
    gap = 1 if len(experts) <= 64 else 0
    heatmap = go.Heatmap(
        z=ratio.to_numpy(),
        x=experts,
        y=np.arange(len(layers)),
        zmin=0,
        zmax=cap,
        xgap=gap,
        ygap=gap,
        colorscale=scale("sequential", theme),
        text=hover,
        hovertemplate="%{text}<extra></extra>",
        colorbar=_colorbar(cap, bool(load["ratio"].max() > cap)),
    )
    figure = figure_of(theme, [heatmap], height=int(np.clip(24 * len(layers) + 90, 240, 720)))
    figure.update_xaxes(title_text="expert", showgrid=False, **whole_ticks(len(experts)))
    every = max(1, -(-len(layers) // 24))
    figure.update_yaxes(
        title_text="layer",
        showgrid=False,
        autorange="reversed",
        tickvals=np.arange(0, len(layers), every),
        ticktext=[str(layer) for layer in layers[::every]],
    )
    return figure


def load_cap(ratio: pd.Series) -> float:
    """Where the load scale ends: the 99th percentile of the loads, at least twice the uniform load."""
    known = ratio.dropna()
    return max(2.0, float(np.ceil(2 * np.quantile(known, 0.99)) / 2)) if len(known) else 2.0


def layer_curve(
    frame: pd.DataFrame, theme: str, *, name: str, reference: tuple[float, str] | None = None, top: float | None = None
) -> go.Figure:
    """One value per layer with its 95 % interval as a band.

    `frame`: layer, value, low, high (NaN where no interval can be given), n. `reference` is a level to compare with and
    what it means; `top` fixes the upper end of the axis where the value has a natural one.
    """
    import plotly.graph_objects as go

    colors = COLORS[theme]
    hover = [_curve_hover(name, row) for row in frame.itertuples()]
    traces = [*band(frame, colors["accent"])] if frame["low"].notna().any() else []
    traces.append(
        go.Scatter(
            x=frame["layer"],
            y=frame["value"],
            mode="lines+markers",
            name=name,
            text=hover,
            showlegend=False,
            hovertemplate="%{text}<extra></extra>",
            line={"width": 2.5, "color": colors["accent"]},
            marker={"size": 7},
        )
    )
    figure = figure_of(theme, traces, height=280)
    figure.update_xaxes(title_text="layer", showgrid=False, **layer_axis(frame["layer"]))
    figure.update_yaxes(title_text=name, range=from_zero(frame, reference, top), nticks=6)
    if reference:
        reference_line(figure, reference, colors)
    return figure


def coverage_bars(coverage: pd.DataFrame, theme: str) -> go.Figure:
    """Share of the tokens of each layer without routing, one bar per layer, split by reason.

    `coverage`: layer, reason, n_missing, n_tokens.
    """
    import plotly.graph_objects as go

    colors = COLORS[theme]
    shades = [colors["second"], colors["quiet"], colors["accent"], colors["bad"], colors["good"]]
    traces = []
    for index, (reason, rows) in enumerate(coverage.groupby("reason", sort=True)):
        share = rows["n_missing"] / rows["n_tokens"]
        text = [
            f"<b>Layer {layer}</b><br>{plain(reason)}<br>{count(n)} of {plural(total, 'token')} ({percent(n / total)})"
            for layer, n, total in zip(rows["layer"], rows["n_missing"], rows["n_tokens"], strict=True)
        ]
        traces.append(
            go.Bar(
                x=rows["layer"],
                y=share,
                name=plain(reason),
                text=text,
                textposition="none",
                hovertemplate="%{text}<extra></extra>",
                width=0.6,
                marker_color=shades[index % len(shades)],
            )
        )
    figure = figure_of(theme, traces, height=260)
    figure.update_layout(barmode="stack", bargap=0.25, showlegend=True)
    figure.update_xaxes(title_text="layer", showgrid=False, **layer_axis(coverage["layer"]))
    figure.update_yaxes(title_text="share of tokens", tickformat=".0%", rangemode="tozero", nticks=5)
    return figure


def _load_hover(layer: int, expert: int, n: float, ratio: float) -> str:
    if ratio != ratio:
        return f"<b>Layer {layer} · expert {expert}</b><br>no such expert, or nothing recorded"
    return f"<b>Layer {layer} · expert {expert}</b><br>{plural(n, 'token')}<br>{number(ratio)} × the uniform load"


def _colorbar(cap: float, cut: bool) -> dict[str, Any]:
    step = next(step for step in (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500) if cap / step <= 5)
    ticks = np.append(np.arange(0, cap - step / 2, step), cap)
    names = [f"{tick:g}×" for tick in ticks]
    if cut:
        names[-1] = f"≥ {names[-1]}"
    return {
        "title": {"text": "load ÷ uniform", "side": "right", "font": {"size": 13}},
        "tickvals": ticks,
        "ticktext": names,
        "thickness": 12,
        "outlinewidth": 0,
        "len": 1,
        "tickfont": {"size": 13},
    }


def _curve_hover(name: str, row: Any) -> str:
    interval = f"<br>95 % interval {number(row.low)} to {number(row.high)}" if row.low == row.low else ""
    return f"<b>Layer {row.layer}</b><br>{name}: {number(row.value)}{interval}<br>{plural(row.n, 'token')}"
