"""Figures: a DataFrame in, a Plotly figure out. No Streamlit, no SQL, no state; `theme` is "light" or "dark".

Labels and names come from traces, and Plotly reads a little HTML in text: whatever is not ours goes through `plain`.
"""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from app.formats import count, number, percent, plural
from app.palette import scale
from app.theme import COLORS, template

if TYPE_CHECKING:
    import plotly.graph_objects as go

EXPORT_SCALE = 2  # PNG downloads at twice the size on the page, sharp in print and on a projector


def load_heatmap(load: pd.DataFrame, theme: str) -> go.Figure:
    """Layer × expert, coloured by load over the uniform load (1 = what the expert would get if all got the same).

    `load`: layer, expert, count, share (of the layer's assignments), ratio. Experts a layer does not have stay empty.
    The scale ends at `load_cap`, so that one overloaded expert does not make all others look alike.
    """
    import plotly.graph_objects as go

    ratio, shown = _grid(load, "ratio"), _grid(load, "count")
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
    figure = _figure(theme, [heatmap], height=int(np.clip(24 * len(layers) + 90, 240, 720)))
    figure.update_xaxes(title_text="expert", showgrid=False, **_whole_ticks(len(experts)))
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
    traces = [*_band(frame, colors["accent"])] if frame["low"].notna().any() else []
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
    figure = _figure(theme, traces, height=280)
    figure.update_xaxes(title_text="layer", showgrid=False, **_layer_axis(frame["layer"]))
    figure.update_yaxes(title_text=name, range=_from_zero(frame, reference, top), nticks=6)
    if reference:
        _reference(figure, reference, colors)
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
    figure = _figure(theme, traces, height=260)
    figure.update_layout(barmode="stack", bargap=0.25, showlegend=True)
    figure.update_xaxes(title_text="layer", showgrid=False, **_layer_axis(coverage["layer"]))
    figure.update_yaxes(title_text="share of tokens", tickformat=".0%", rangemode="tozero", nticks=5)
    return figure


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
    figure = _figure(theme, [mean, value], height=260)
    figure.update_xaxes(title_text="layer", showgrid=False, **_layer_axis(frame["layer"], most=9))
    figure.update_yaxes(title_text=name, rangemode="tozero", nticks=5)
    return figure


def plain(text: Any) -> str:
    """Text as text: Plotly would otherwise read tags and links in it."""
    return html.escape(str(text))


def modebar(file_name: str, image_format: str) -> dict[str, Any]:
    """Plotly's own buttons: download, zoom back; nothing that leads to another site."""
    return {
        "displaylogo": False,
        "displayModeBar": "hover",
        "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d", "pan2d", "zoom2d"],
        "toImageButtonOptions": {"format": image_format, "filename": file_name, "scale": EXPORT_SCALE},
        "showTips": True,
    }


def _figure(theme: str, traces: list[Any], height: int) -> go.Figure:
    import plotly.graph_objects as go

    return go.Figure(data=traces, layout={"template": template(theme), "height": height})


def _grid(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    grid = frame.pivot(index="layer", columns="expert", values=column)
    return grid.reindex(columns=range(int(frame["expert"].max()) + 1)) if len(frame) else grid


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


def _whole_ticks(n: int, most: int = 17) -> dict[str, Any]:
    """Ticks at whole numbers, at most `most`, at steps people count in."""
    step = next(step for step in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024) if n / step <= most)
    return {"tickmode": "linear", "tick0": 0, "dtick": step, "range": [-0.5, n - 0.5], "tickangle": 0}


def _layer_axis(layers: pd.Series, most: int = 17) -> dict[str, Any]:
    first, last = int(layers.min()), int(layers.max())
    ticks = _whole_ticks(last - first + 1, most)
    return ticks | {"tick0": first if ticks["dtick"] == 1 else 0, "range": [first - 0.4, last + 0.4]}


def _band(frame: pd.DataFrame, color: str) -> list[Any]:
    import plotly.graph_objects as go

    red, green, blue = (int(color[start : start + 2], 16) for start in (1, 3, 5))
    edge = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "x": frame["layer"]}
    low = go.Scatter(y=frame["low"], showlegend=False, **edge)
    fill = f"rgba({red},{green},{blue},0.2)"
    high = go.Scatter(y=frame["high"], fill="tonexty", fillcolor=fill, name="95 % interval", showlegend=True, **edge)
    return [low, high]


def _curve_hover(name: str, row: Any) -> str:
    interval = f"<br>95 % interval {number(row.low)} to {number(row.high)}" if row.low == row.low else ""
    return f"<b>Layer {row.layer}</b><br>{name}: {number(row.value)}{interval}<br>{plural(row.n, 'token')}"


def _from_zero(frame: pd.DataFrame, reference: tuple[float, str] | None, top: float | None) -> list[float]:
    if top is not None:
        return [0, top * 1.04]
    highest = float(np.nanmax([*frame["value"], *frame["high"].dropna(), reference[0] if reference else 0, 1e-9]))
    return [0, highest * 1.12]


def _reference(figure: go.Figure, reference: tuple[float, str], colors: dict[str, str]) -> None:
    level, meaning = reference
    figure.add_hline(
        y=level,
        line={"width": 1.2, "dash": "dash", "color": colors["quiet"]},
        annotation={"text": meaning, "font": {"size": 12, "color": colors["quiet"]}, "yshift": 0},
        annotation_position="bottom right" if level else "top right",
    )
