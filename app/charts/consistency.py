"""Figures of local routing consistency: SRP over segment length, hit rates over cache size, what a budget buys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from app.charts.base import figure_of, reference_line
from app.formats import count, number, percent, size
from app.tables.planner import IN_BYTES, Unit
from app.theme import COLORS

if TYPE_CHECKING:
    import plotly.graph_objects as go


def srp_curves(frame: pd.DataFrame, theme: str, *, layer: int | None = None) -> go.Figure:
    """SRP over segment length: the model as a thick line with its interval, each layer thin, one of them marked.

    `frame`: level (layer|model), layer, segment_length, srp, n_windows; ci_low and ci_high where there are intervals.
    """
    import plotly.graph_objects as go

    colors = COLORS[theme]
    model = frame[frame["level"] == "model"]
    traces: list[Any] = []
    for index, (name, rows) in enumerate(frame[frame["level"] == "layer"].groupby("layer", sort=True)):
        if name != layer:
            style = {"width": 1, "color": colors["quiet"]}
            traces.append(_line(rows, f"layer {name}", style, opacity=0.5, group="layers", legend=index == 0))
    traces += _interval(model, colors["accent"])
    traces.append(_line(model, "whole model", {"width": 3, "color": colors["accent"]}, mode="lines+markers"))
    if layer is not None:
        rows = frame[(frame["level"] == "layer") & (frame["layer"] == layer)]
        traces.append(_line(rows, f"layer {layer}", {"width": 3, "color": colors["second"]}, mode="lines+markers"))
    figure = figure_of(theme, [go.Scatter(trace) for trace in traces], height=360)
    lengths = sorted(frame["segment_length"].unique())
    ticks = {"tickvals": lengths, "ticktext": [str(length) for length in lengths]}
    figure.update_xaxes(title_text="segment length m, tokens", type="log", showgrid=False, **ticks)
    figure.update_yaxes(title_text="SRP", range=[0, 1.04], nticks=6)
    return figure


def cache_curves(frame: pd.DataFrame, theme: str, *, experts: int, top_k: int) -> go.Figure:
    """Hit rate over cache size, one line per way to run the cache.

    `frame`: way, cache_size, rate, known (whether the way knows the future: dashed). `experts`, `top_k` of a layer.
    """
    import plotly.graph_objects as go

    colors = COLORS[theme]
    shades = [colors["accent"], colors["second"], colors["good"], colors["bad"]]
    size = np.arange(0, experts + 1)
    chance = go.Scatter(
        x=size,
        y=size / experts,
        mode="lines",
        name="experts drawn evenly",
        line={"width": 1.5, "dash": "dot", "color": colors["quiet"]},
        hoverinfo="skip",
    )
    traces: list[Any] = [chance]
    for (way, rows), shade in zip(frame.groupby("way", sort=False), shades, strict=False):
        known = bool(rows["known"].iloc[0])
        traces.append(
            go.Scatter(
                x=rows["cache_size"],
                y=rows["rate"],
                name=str(way),
                mode="lines+markers",
                line={"width": 2.5, "color": shade, "dash": "dash" if known else "solid"},
                marker={"size": 6},
                text=[
                    f"<b>{way}</b><br>{count(c)} of {count(experts)} experts cached<br>{percent(r)} hits"
                    for c, r in zip(rows["cache_size"], rows["rate"], strict=True)
                ],
                hovertemplate="%{text}<extra></extra>",
            )
        )
    figure = figure_of(theme, traces, height=430)
    figure.update_xaxes(
        title_text="experts in the cache of a layer", showgrid=False, range=[0, experts * 1.02], nticks=12
    )
    figure.update_yaxes(title_text="hit rate", tickformat=".0%", range=[0, 1.04], nticks=6)
    if top_k < experts:
        note = {"text": f"k = {top_k}", "font": {"size": 12, "color": colors["quiet"]}}
        line = {"width": 1.2, "dash": "dash", "color": colors["quiet"]}
        figure.add_vline(x=top_k, line=line, annotation=note, annotation_position="top right")
    return figure


def budget_curve(
    frame: pd.DataFrame, theme: str, *, budget: float, all_experts: float, unit: Unit = IN_BYTES
) -> go.Figure:
    """What is moved per token over the memory given to experts, with the chosen budget marked.

    `frame`: policy, budget, moved (per token), cache_size. `all_experts`: of all of them. `unit`: what all are told in.
    """
    import plotly.graph_objects as go

    colors = COLORS[theme]
    shades = [colors["accent"], colors["second"], colors["good"]]
    traces = []
    for (policy, rows), shade in zip(frame.groupby("policy", sort=False), shades, strict=False):
        text = [
            f"<b>{policy}</b><br>{_told(b, unit)} in memory: {count(c)} per layer<br>{_told(m, unit)} moved per token"
            for b, c, m in zip(rows["budget"], rows["cache_size"], rows["moved"], strict=True)
        ]
        line = {"width": 2.5, "color": shade, "shape": "hv"}
        place = {"x": rows["budget"] / unit.per_memory, "y": rows["moved"] / unit.per_moved}
        hover = "%{text}<extra></extra>"
        traces.append(go.Scatter(**place, mode="lines", name=str(policy), line=line, text=text, hovertemplate=hover))
    figure = figure_of(theme, traces, height=320)
    figure.update_xaxes(
        title_text=f"memory for experts, {unit.memory}",
        showgrid=False,
        range=[0, all_experts / unit.per_memory * 1.02],
        nticks=10,
    )
    figure.update_yaxes(title_text=f"moved per token, {unit.moved}", rangemode="tozero", nticks=6)
    mark = {
        "text": f"budget {number(budget / unit.per_memory)} {unit.memory}",
        "font": {"size": 12, "color": colors["quiet"]},
    }
    if budget <= all_experts:
        line = {"width": 1.5, "dash": "dash", "color": colors["ink"]}
        figure.add_vline(x=budget / unit.per_memory, line=line, annotation=mark, annotation_position="top right")
    else:
        reference_line(figure, (0, "everything fits: nothing is moved"), colors)
    return figure


def _told(amount: float, unit: Unit) -> str:
    return size(int(amount)) if unit is IN_BYTES else f"{number(amount)} experts"


def _line(
    rows: pd.DataFrame,
    name: str,
    line: dict[str, Any],
    *,
    mode: str = "lines",
    opacity: float = 1,
    group: str = "",
    legend: bool = True,
) -> dict[str, Any]:
    text = [
        f"<b>{name}</b><br>segments of {count(m)} tokens<br>SRP {number(value)}<br>{count(n)} windows"
        for m, value, n in zip(rows["segment_length"], rows["srp"], rows["n_windows"], strict=True)
    ]
    more = {"legendgroup": group, "showlegend": legend} if group else {}
    shown = "each layer" if group else name
    place = {"x": rows["segment_length"], "y": rows["srp"], "text": text, "hovertemplate": "%{text}<extra></extra>"}
    return {**place, "name": shown, "mode": mode, "line": line, "opacity": opacity, "marker": {"size": 7}, **more}


def _interval(rows: pd.DataFrame, color: str) -> list[dict[str, Any]]:
    if "ci_low" not in rows or rows["ci_low"].isna().all():
        return []
    red, green, blue = (int(color[start : start + 2], 16) for start in (1, 3, 5))
    edge = {"x": rows["segment_length"], "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    low = {**edge, "y": rows["ci_low"], "showlegend": False}
    fill = f"rgba({red},{green},{blue},0.2)"
    return [low, {**edge, "y": rows["ci_high"], "fill": "tonexty", "fillcolor": fill, "name": "95 % interval"}]
