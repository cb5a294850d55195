"""Figures of Steering: what an intervention did to the opinion of each token, and to the choice in each layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from app.charts.base import figure_of, layer_axis, plain
from app.formats import control_name, number, percent, plural
from app.theme import COLORS

if TYPE_CHECKING:
    import plotly.graph_objects as go


def kl_bars(tokens: pd.DataFrame, theme: str) -> go.Figure:
    """KL to the baseline per token, the prompt's quieter than those of the answer.

    `tokens`: position, token, generated, kl (nats, NaN for the first), logprob, steered_logprob.
    """
    import plotly.graph_objects as go

    colors = COLORS[theme]
    hover = [
        f"<b>{plain(row.token)}</b><br>position {row.position}<br>KL {number(row.kl)} nats<br>"
        f"ln p {number(row.logprob)} → {number(row.steered_logprob)}"
        for row in tokens.itertuples()
    ]
    shades = np.where(tokens["generated"], colors["accent"], colors["quiet"])
    bars = go.Bar(
        x=tokens["position"],
        y=tokens["kl"],
        marker_color=shades,
        text=hover,
        textposition="none",
        hovertemplate="%{text}<extra></extra>",
        showlegend=False,
    )
    figure = figure_of(theme, [bars], height=240)
    figure.update_layout(bargap=0.15)
    figure.update_xaxes(title_text="position (grey: prompt)", showgrid=False)
    figure.update_yaxes(title_text="KL to baseline (nats)", rangemode="tozero", nticks=5)
    return figure


def changed_bars(layers: pd.DataFrame, theme: str) -> go.Figure:
    """Share of the tokens that went to another set of experts, per layer, beside the controls.

    `layers`: layer, changed, n_tokens, share, control (mean share under the controls, NaN where there is none).
    """
    import plotly.graph_objects as go

    colors = COLORS[theme]
    text = [
        f"<b>Layer {row.layer}</b><br>{percent(row.share)} of {plural(row.n_tokens, 'token')}"
        for row in layers.itertuples()
    ]
    bars = [
        go.Bar(
            x=layers["layer"], y=layers["share"], name="this intervention", marker_color=colors["accent"], text=text,
            textposition="none", hovertemplate="%{text}<extra></extra>",
        )
    ]  # fmt: skip
    if layers["control"].notna().any():
        bars.append(
            go.Bar(
                x=layers["layer"], y=layers["control"], name="random control", marker_color=colors["quiet"],
                hovertemplate="<b>Layer %{x}</b><br>random control: %{y:.1%}<extra></extra>",
            )
        )  # fmt: skip
    figure = figure_of(theme, bars, height=240)
    figure.update_layout(barmode="group", bargap=0.3, showlegend=True)
    figure.update_xaxes(title_text="layer", showgrid=False, **layer_axis(layers["layer"]))
    figure.update_yaxes(title_text="tokens rerouted", tickformat=".0%", rangemode="tozero", nticks=5)
    return figure


def effect_bars(rows: pd.DataFrame, theme: str, measure: str) -> go.Figure:
    """A measure under each arm with its 95 % interval, next to its controls and the baseline.

    `rows`: arm, value, low, high, baseline, control, control_min, control_max, n.
    """
    import plotly.graph_objects as go

    colors = COLORS[theme]
    names = [plain(_short(arm)) for arm in rows["arm"]]
    marks = [
        go.Scatter(
            x=rows["value"],
            y=names,
            mode="markers",
            name="value, 95 % interval",
            marker={"size": 11, "color": colors["accent"]},
            error_x=_spread(rows["value"], rows["low"], rows["high"], 2),
        )
    ]
    controls = rows["control"].notna()
    if controls.any():
        marks.append(
            go.Scatter(
                x=rows["control"], y=names, mode="markers", name=f"{_kinds(rows)}, smallest to largest",
                marker={"size": 10, "symbol": "diamond-open", "color": colors["second"]},
                error_x=_spread(rows["control"], rows["control_min"], rows["control_max"], 1.4),
            )
        )  # fmt: skip
    figure = figure_of(theme, marks, height=110 + 46 * len(rows))
    figure.update_layout(showlegend=True)
    figure.update_xaxes(title_text=measure)
    figure.update_yaxes(autorange="reversed", showgrid=False, automargin=True)
    return figure


def _kinds(rows: pd.DataFrame) -> str:
    """What the controls are called, by what they have in common with the arms."""
    told = rows["control_kind"].dropna().unique() if "control_kind" in rows else []
    return " and ".join(f"{control_name(str(kind))}s" for kind in (told if len(told) else [""]))


def _spread(value: pd.Series, low: pd.Series, high: pd.Series, thickness: float) -> dict[str, object]:
    return {
        "type": "data",
        "symmetric": False,
        "array": high - value,
        "arrayminus": value - low,
        "thickness": thickness,
    }


def _short(arm: str, most: int = 44) -> str:
    return arm if len(arm) <= most else f"{arm[: most - 1]}…"
