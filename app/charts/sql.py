"""The quick chart over the rows of a query: bars, a line, points, or a heat-map of one number over two columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from app.charts.base import figure_of, plain
from app.palette import expert_colors, scale
from app.theme import COLORS

if TYPE_CHECKING:
    import plotly.graph_objects as go

KINDS = ("bars", "line", "points", "heat-map")
MOST_ROWS = 5_000  # drawn; more dots than this say no more and take long
MOST_GROUPS = 12
LONGEST = 40  # characters of a name beside an axis


def quick_chart(rows: pd.DataFrame, theme: str, *, kind: str, x: str, y: str, color: str | None = None) -> go.Figure:
    """`kind` of chart of column `y` over column `x`, one colour per value of `color` (for the heat-map: its amount).

    Text columns become categories in the order of the rows; names and values are shown as text. At most MOST_ROWS rows
    are drawn, and MOST_GROUPS colours, the rest in grey.
    """
    rows = rows.head(MOST_ROWS)
    traces = _heat(rows, theme, x, y, color) if kind == "heat-map" else _series(rows, theme, kind, x, y, color)
    figure = figure_of(theme, traces, height=400)
    figure.update_xaxes(title_text=_short(x), showgrid=False, automargin=True, **_axis(rows[x], most=24))
    figure.update_yaxes(title_text=_short(y), automargin=True, **_axis(rows[y], most=24))
    if kind == "bars":
        figure.update_layout(barmode="group", bargap=0.2)
        if _is_number(rows[y]):
            figure.update_yaxes(rangemode="tozero")
    figure.update_layout(showlegend=len(traces) > 1)
    return figure


def _series(rows: pd.DataFrame, theme: str, kind: str, x: str, y: str, color: str | None) -> list[Any]:
    if color is None:
        return [_one(rows, kind, x, y, "", COLORS[theme]["accent"])]
    groups = list(rows.groupby(color, sort=False, dropna=False))
    shown, rest = groups[:MOST_GROUPS], groups[MOST_GROUPS:]
    traces = [
        _one(part, kind, x, y, _short(name), shade) for (name, part), shade in zip(shown, expert_colors(), strict=False)
    ]
    if rest:
        others = pd.concat([part for _, part in rest])
        traces.append(_one(others, kind, x, y, f"{len(rest)} others", COLORS[theme]["quiet"]))
    return traces


def _one(rows: pd.DataFrame, kind: str, x: str, y: str, name: str, color: str) -> Any:
    import plotly.graph_objects as go

    place = {"x": _values(rows[x]), "y": _values(rows[y]), "name": name}
    hover = f"{_short(x)} %{{x}}<br>{_short(y)} %{{y}}<extra>{name}</extra>".replace("\n", " ")
    if kind == "bars":
        return go.Bar(**place, hovertemplate=hover, marker_color=color)
    mode = "lines+markers" if kind == "line" and len(rows) <= 200 else "lines" if kind == "line" else "markers"
    line = {"width": 2.5, "color": color}
    return go.Scatter(**place, mode=mode, hovertemplate=hover, line=line, marker={"size": 7, "color": color})


def _heat(rows: pd.DataFrame, theme: str, x: str, y: str, amount: str | None) -> list[Any]:
    import plotly.graph_objects as go

    if amount is not None and _is_number(rows[amount]):
        z = _values(rows[amount])
    else:  # without an amount: how many rows
        rows = rows.groupby([x, y], sort=False, dropna=False).size().reset_index(name="rows")
        amount, z = "rows", rows["rows"]
    hover = f"{_short(x)} %{{x}}<br>{_short(y)} %{{y}}<br>{_short(amount)} %{{z}}<extra></extra>"
    bar = {"title": {"text": _short(amount), "side": "right"}, "thickness": 12, "outlinewidth": 0}
    return [
        go.Heatmap(
            x=_values(rows[x]),
            y=_values(rows[y]),
            z=z,
            colorscale=scale("sequential", theme),
            hovertemplate=hover,
            colorbar=bar,
        )
    ]


def _values(column: pd.Series) -> Any:
    if _is_number(column):
        return column.astype("float64").to_numpy()
    return np.array([_short(value) for value in column], dtype=object)


def _axis(column: pd.Series, most: int) -> dict[str, Any]:
    if _is_number(column):
        known = column.dropna()
        few_whole = pd.api.types.is_integer_dtype(column) and len(known) and known.max() - known.min() < most
        return {"dtick": 1} if few_whole else {"nticks": 10}
    names = list(dict.fromkeys(_values(column)))
    every = max(1, -(-len(names) // most))
    return {"type": "category", "tickmode": "array", "tickvals": names[::every]}


def _is_number(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _short(value: Any) -> str:
    text = "NULL" if value is None or value is pd.NA or value != value else str(value)
    # `%{` would start one of Plotly's own placeholders.
    return plain(text if len(text) <= LONGEST else text[: LONGEST - 1] + "…").replace("%{", "% {")
