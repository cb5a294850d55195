"""What every figure shares: the frame with our template, axes over layers, bands, references, escaped text."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from app.theme import template

if TYPE_CHECKING:
    import plotly.graph_objects as go

EXPORT_SCALE = 2  # PNG downloads at twice the size on the page, sharp in print and on a projector


def plain(text: Any) -> str:
    """Text as text: Plotly would otherwise read tags and links in it."""
    return html.escape(str(text))


def shortened(text: Any, most: int = 28) -> str:
    """A name that fits beside an axis; the hover has all of it."""
    word = str(text)
    return word if len(word) <= most else f"{word[: most - 1]}…"


def modebar(file_name: str, image_format: str) -> dict[str, Any]:
    """Plotly's own buttons: download, zoom back; nothing that leads to another site."""
    return {
        "displaylogo": False,
        "displayModeBar": "hover",
        "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d", "pan2d", "zoom2d"],
        "toImageButtonOptions": {"format": image_format, "filename": file_name, "scale": EXPORT_SCALE},
        "showTips": True,
    }


def figure_of(theme: str, traces: list[Any], height: int) -> go.Figure:
    import plotly.graph_objects as go

    return go.Figure(data=traces, layout={"template": template(theme), "height": height})


def grid_of(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    grid = frame.pivot(index="layer", columns="expert", values=column)
    return grid.reindex(columns=range(int(frame["expert"].max()) + 1)) if len(frame) else grid


def whole_ticks(n: int, most: int = 17) -> dict[str, Any]:
    """Ticks at whole numbers, at most `most`, at steps people count in."""
    step = next(step for step in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024) if n / step <= most)
    return {"tickmode": "linear", "tick0": 0, "dtick": step, "range": [-0.5, n - 0.5], "tickangle": 0}


def layer_axis(layers: pd.Series, most: int = 17) -> dict[str, Any]:
    first, last = int(layers.min()), int(layers.max())
    ticks = whole_ticks(last - first + 1, most)
    return ticks | {"tick0": first if ticks["dtick"] == 1 else 0, "range": [first - 0.4, last + 0.4]}


def band(frame: pd.DataFrame, color: str) -> list[Any]:
    import plotly.graph_objects as go

    red, green, blue = (int(color[start : start + 2], 16) for start in (1, 3, 5))
    edge = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "x": frame["layer"]}
    low = go.Scatter(y=frame["low"], showlegend=False, **edge)
    fill = f"rgba({red},{green},{blue},0.2)"
    high = go.Scatter(y=frame["high"], fill="tonexty", fillcolor=fill, name="95 % interval", showlegend=True, **edge)
    return [low, high]


def from_zero(frame: pd.DataFrame, reference: tuple[float, str] | None, top: float | None) -> list[float]:
    if top is not None:
        return [0, top * 1.04]
    highest = float(np.nanmax([*frame["value"], *frame["high"].dropna(), reference[0] if reference else 0, 1e-9]))
    return [0, highest * 1.12]


def reference_line(figure: go.Figure, reference: tuple[float, str], colors: dict[str, str]) -> None:
    level, meaning = reference
    figure.add_hline(
        y=level,
        line={"width": 1.2, "dash": "dash", "color": colors["quiet"]},
        annotation={"text": meaning, "font": {"size": 12, "color": colors["quiet"]}, "yshift": 0},
        annotation_position="bottom right" if level else "top right",
    )
