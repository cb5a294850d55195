"""Figures of Specialization: experts by labels, what tells two sets apart, a value per layer, and the atlas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from app.charts.base import figure_of, plain, shortened
from app.formats import number
from app.palette import category_color, expert_color, scale
from app.theme import COLORS

if TYPE_CHECKING:
    import plotly.graph_objects as go

NPMI_CAP = 0.1  # the scale never ends below this: a map of noise should look like one


def label_heatmap(
    grid: pd.DataFrame,
    theme: str,
    *,
    name: str,
    across: str,
    counts: pd.DataFrame | None = None,
    from_zero: bool = False,
) -> go.Figure:
    """Label × expert (or layer) in two colours around 0: together more or less often than by chance.

    `grid`: rows labels, columns numbers in the order to draw; `counts`: tokens behind each cell, for the hover.
    `from_zero`: in one colour, for values of which only those above 0 say something.
    """
    import plotly.graph_objects as go

    values = grid.to_numpy(float)
    cap = npmi_cap(values)
    hover = [[_cell_hover(grid, counts, r, c, name, across) for c in range(values.shape[1])] for r in range(len(grid))]
    gap = 1 if values.shape[1] <= 96 else 0
    heatmap = go.Heatmap(
        z=values, x=np.arange(values.shape[1]), y=np.arange(len(grid)), zmin=0 if from_zero else -cap, zmax=cap,
        xgap=gap, ygap=gap, colorscale=scale("sequential" if from_zero else "diverging", theme),
        text=hover, hovertemplate="%{text}<extra></extra>",
        colorbar={"title": {"text": name, "side": "right", "font": {"size": 13}}, "thickness": 12, "outlinewidth": 0,
                  "len": 1, "tickfont": {"size": 13}, "nticks": 5},
    )  # fmt: skip
    figure = figure_of(theme, [heatmap], height=int(np.clip(30 * len(grid) + 80, 220, 900)))
    every = max(1, -(-values.shape[1] // 40))
    shown = np.arange(0, values.shape[1], every)
    figure.update_xaxes(
        title_text=across, showgrid=False, tickvals=shown, ticktext=[str(grid.columns[i]) for i in shown], tickangle=0,
        tickfont={"size": 12 if len(shown) <= 32 else 10},
    )  # fmt: skip
    names = [plain(shortened(label)) for label in grid.index]
    named = {"tickvals": np.arange(len(grid)), "ticktext": names, "automargin": True}
    figure.update_yaxes(showgrid=False, autorange="reversed", **named)
    return figure


def npmi_cap(values: np.ndarray) -> float:
    """Where the scale ends on both sides: the largest value above 0, at least `NPMI_CAP`. −1 (never) is cut there."""
    known = values[~np.isnan(values)]
    return max(NPMI_CAP, float(known.max())) if len(known) else NPMI_CAP


def contrast_bars(frame: pd.DataFrame, theme: str, *, name: str, sides: tuple[str, str] | None = None) -> go.Figure:
    """Differences from 0 as bars with intervals; what is within noise is pale.

    `frame`: value, low, high, sure, hover (escaped), and layer and expert or a name; the first row on top. `sides`:
    what a value above and below 0 belongs to.
    """
    import plotly.graph_objects as go

    colors, ends = COLORS[theme], scale("diverging", theme)
    fill = np.where(frame["value"] > 0, str(ends[5][1]), str(ends[1][1]))
    error = {
        "type": "data", "symmetric": False, "array": frame["high"] - frame["value"],
        "arrayminus": frame["value"] - frame["low"], "color": colors["ink"], "thickness": 1.2, "width": 3,
    }  # fmt: skip
    bars = go.Bar(
        x=frame["value"], y=np.arange(len(frame)), orientation="h", marker={"color": fill},
        opacity=1, error_x=error if frame["low"].notna().any() else None, text=frame["hover"], textposition="none",
        hovertemplate="%{text}<extra></extra>", showlegend=False,
    )  # fmt: skip
    bars.marker.opacity = np.where(frame["sure"], 1.0, 0.35)
    figure = figure_of(theme, [bars], height=int(23 * len(frame) + 96))
    if "name" in frame:
        names = [plain(shortened(text)) for text in frame["name"]]
    else:
        names = [f"{layer}·{expert}" for layer, expert in zip(frame["layer"], frame["expert"], strict=True)]
    what = "" if "name" in frame else "layer·expert"
    figure.update_yaxes(
        title_text=what, autorange="reversed", tickvals=np.arange(len(frame)), ticktext=names, showgrid=False,
        automargin=True,
    )  # fmt: skip
    figure.update_xaxes(title_text=name, nticks=7, zeroline=True, zerolinecolor=colors["quiet"])
    for side, text, x in ((1, sides[0], 1.0), (0, sides[1], 0.0)) if sides else ():
        arrow = f"more in {plain(shortened(text))} →" if side else f"← more in {plain(shortened(text))}"
        figure.add_annotation(
            text=arrow, xref="paper", yref="paper", x=x, y=1.0, yanchor="bottom", xanchor="right" if side else "left",
            showarrow=False, font={"size": 12, "color": colors["quiet"]},
        )  # fmt: skip
    figure.update_layout(margin={"t": 30}, bargap=0.28)
    return figure


def atlas(points: pd.DataFrame, theme: str, *, by: str, kind: str, num_experts: int = 0) -> go.Figure:
    """A map of points that were laid out in two dimensions. `points`: x, y, hover (escaped), and the column `by`.

    `kind` is "expert" (a colour per expert number), "category" (a colour per name, the largest first) or "amount".
    The axes have no unit and no ticks: only what is near whom means anything.
    """
    import plotly.graph_objects as go

    shared = {"mode": "markers", "hovertemplate": "%{text}<extra></extra>"}
    size = 9 if len(points) <= 400 else 6 if len(points) <= 1500 else 4
    edge = {"width": 0.5, "color": COLORS[theme]["background"]}
    if kind == "amount":
        bar = {"title": {"text": plain(by), "side": "right"}, "thickness": 12, "outlinewidth": 0, "nticks": 5}
        marker: dict[str, Any] = {
            "color": points[by].astype(float),
            "colorscale": scale("sequential", theme)[1 if theme == "light" else 2 :],
            "colorbar": bar,
        }
        marker["colorscale"] = [
            [i / (len(marker["colorscale"]) - 1), c] for i, (_, c) in enumerate(marker["colorscale"])
        ]
        traces = [go.Scatter(x=points["x"], y=points["y"], text=points["hover"], showlegend=False,
                             marker={**marker, "size": size, "line": edge}, **shared)]  # fmt: skip
    else:
        traces = [
            go.Scatter(x=part["x"], y=part["y"], text=part["hover"], name=plain(shortened(title)), showlegend=shows,
                       marker={"color": color, "size": size, "line": edge}, **shared)
            for title, part, color, shows in _categories(points, by, kind, num_experts)
        ]  # fmt: skip
    figure = figure_of(theme, traces, height=560)
    for axis in (figure.update_xaxes, figure.update_yaxes):
        axis(showticklabels=False, showgrid=False, ticks="", title_text="", showline=False)
    figure.update_layout(legend={"itemsizing": "constant"}, margin={"l": 8, "b": 8})
    return figure


SHOWN_CATEGORIES = 12


def _categories(
    points: pd.DataFrame, by: str, kind: str, num_experts: int
) -> list[tuple[str, pd.DataFrame, str, bool]]:
    """Title, points, colour and whether the legend names it, the largest first; what comes after the 12th is grey."""
    sizes = points[by].value_counts(sort=True)
    found = []
    for place, title in enumerate(sizes.index):
        color = expert_color(int(title), num_experts) if kind == "expert" else category_color(place)
        found.append((str(title), points[points[by] == title], color, place < SHOWN_CATEGORIES))
    unknown = points[points[by].isna()]
    return found + ([("none", unknown, category_color(-1), True)] if len(unknown) else [])


def _cell_hover(grid: pd.DataFrame, counts: pd.DataFrame | None, row: int, column: int, name: str, across: str) -> str:
    value = grid.iat[row, column]
    n = "" if counts is None else f"<br>{int(counts.iat[row, column]):,} tokens of it chose the expert"
    said = f"{name} {number(value)}" if value > -1 else "never together"
    return f"<b>{plain(grid.index[row])} · {across} {grid.columns[column]}</b><br>{said}{n}"
