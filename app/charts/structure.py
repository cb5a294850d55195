"""Figures of structure: pairs of experts as a matrix and as ties on a circle, flows of tokens, clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from app.charts.base import figure_of, whole_ticks
from app.formats import count, number, percent
from app.palette import expert_color, scale
from app.theme import COLORS

if TYPE_CHECKING:
    import plotly.graph_objects as go

MEASURES = ("npmi_distinct", "lift_distinct", "conditional", "similarity")  # of a pair of experts
NAMES = {"npmi_distinct": "nPMI", "lift_distinct": "lift, log₂", "conditional": "share", "similarity": "cosine"}
CURVE = 24  # points of a drawn tie
STRENGTHS = 8  # of ties: each is a trace, and takes its time to draw
PAD, GAP = 11, 0.026  # between the experts of a flow chart: pixels, and the same as a share of its height


def pair_heatmap(frame: pd.DataFrame, theme: str, *, measure: str, order: list[int]) -> go.Figure:
    """Expert × expert of one layer, coloured by `measure`; rows and columns in `order`.

    `frame`: expert, other, and the measure (one of MEASURES); n_ij where pairs were counted. Differences from chance
    and cosines are drawn around 0, lift as its logarithm, shares from 0.
    """
    import plotly.graph_objects as go

    grid = _grid(frame, measure, order)
    counted = _grid(frame, "n_ij", order) if "n_ij" in frame else None
    drawn = np.log2(grid, out=np.full(grid.shape, np.nan), where=grid > 0) if measure == "lift_distinct" else grid
    around = measure != "conditional"
    most = float(np.nanquantile(np.abs(drawn), 0.995)) if np.isfinite(drawn).any() else 1.0
    heatmap = go.Heatmap(
        z=drawn,
        x=np.arange(len(order)),
        y=np.arange(len(order)),
        zmin=-most if around else 0,
        zmax=most or 1.0,
        xgap=1 if len(order) <= 32 else 0,
        ygap=1 if len(order) <= 32 else 0,
        colorscale=scale("diverging" if around else "sequential", theme),
        text=_pair_hovers(grid, counted, measure, order),
        hovertemplate="%{text}<extra></extra>",
        colorbar={
            "title": {"text": NAMES[measure], "side": "right", "font": {"size": 13}},
            "thickness": 12,
            "outlinewidth": 0,
            "nticks": 6,
        },
    )
    figure = figure_of(theme, [heatmap], height=560)
    every = max(1, -(-len(order) // 32))
    ticks = {
        "tickvals": list(range(0, len(order), every)),
        "ticktext": [str(e) for e in order[::every]],
        "tickangle": 0,
    }
    figure.update_xaxes(title_text="expert", showgrid=False, **ticks)
    figure.update_yaxes(title_text="expert", showgrid=False, autorange="reversed", **ticks)
    return figure


def tie_graph(
    ties: pd.DataFrame, load: pd.DataFrame, theme: str, *, order: list[int], chosen: int | None = None
) -> go.Figure:
    """Experts on a circle, in `order`; a curve for each tie, thicker where it is stronger, in `STRENGTHS` steps.

    `ties`: expert, other, npmi_distinct, n_ij, each pair once; `load`: expert, share. With an expert
    `chosen` only its ties are in colour.
    """
    import plotly.graph_objects as go

    colors, n = COLORS[theme], len(order)
    angle = {expert: 2 * np.pi * at / n for at, expert in enumerate(order)}
    strongest = float(ties["npmi_distinct"].max()) if len(ties) else 1.0
    level = np.ceil(STRENGTHS * ties["npmi_distinct"] / strongest).clip(lower=1)
    mine = pd.Series(True, ties.index) if chosen is None else (ties[["expert", "other"]] == chosen).any(axis=1)
    traces: list[Any] = []
    for (own, strength), alike in ties.groupby([mine, level]):  # the strongest last, on top, and those of `chosen`
        share = strength / STRENGTHS
        line = {"width": 0.8 + 5 * share, "color": colors["accent"] if own else colors["line"]}
        opacity = 0.25 + 0.6 * share if own else 0.5
        traces.append(go.Scatter(**_curves(alike, angle), mode="lines", line=line, opacity=opacity, hoverinfo="text",
                                 showlegend=False))  # fmt: skip
    traces.append(_nodes(load, order, angle, theme, chosen))
    figure = figure_of(theme, traces, height=560)
    hidden = {"visible": False, "range": [-1.22, 1.22]}
    figure.update_xaxes(**hidden, constrain="domain")
    figure.update_yaxes(**hidden, scaleanchor="x", constrain="domain")
    figure.update_layout(margin={"l": 8, "r": 8, "b": 8})
    return figure


def flow_sankey(flows: pd.DataFrame, theme: str, *, num_experts: int) -> go.Figure:
    """The top flows of tokens from layer to layer. `flows`: layer, expert, next_layer, next_expert, n, share, lift."""
    import plotly.graph_objects as go

    nodes = _flow_nodes(flows)
    place = {(row.layer, row.expert): at for at, row in enumerate(nodes.itertuples())}
    shades = [expert_color(int(expert), num_experts) for expert in nodes["expert"]]
    source = [place[row.layer, row.expert] for row in flows.itertuples()]
    sankey = go.Sankey(
        arrangement="fixed",
        node={
            "label": [str(expert) for expert in nodes["expert"]],
            "color": shades,
            "x": nodes["x"],
            "y": nodes["y"],
            "pad": PAD,
            "thickness": 14,
            "line": {"width": 0},
            "customdata": [
                f"layer {layer}, expert {e}" for layer, e in zip(nodes["layer"], nodes["expert"], strict=True)
            ],
            "hovertemplate": "<b>%{customdata}</b><br>%{value:,} tokens of the flows drawn<extra></extra>",
        },
        link={
            "source": source,
            "target": [place[row.next_layer, row.next_expert] for row in flows.itertuples()],
            "value": flows["n"],
            "color": [_faint(shades[at]) for at in source],
            "customdata": [
                f"<b>layer {f.layer}, expert {f.expert} → layer {f.next_layer}, expert {f.next_expert}</b><br>"
                f"{count(f.n)} tokens, {percent(f.share)} of the expert's<br>{number(f.lift)} × what chance would send"
                for f in flows.itertuples()
            ],
            "hovertemplate": "%{customdata}<extra></extra>",
        },
        textfont={"size": 13, "color": COLORS[theme]["ink"]},
    )
    figure = figure_of(theme, [sankey], height=520)
    figure.update_layout(margin={"l": 12, "r": 24, "t": 34, "b": 12})
    for layer, x in nodes.groupby("layer")["x"].first().items():
        side = "left" if x < 0.01 else "right" if x > 0.99 else "center"
        text = {"text": f"layer {layer}", "showarrow": False, "font": {"size": 13, "color": COLORS[theme]["quiet"]}}
        figure.add_annotation(x=x, y=1.05, xref="paper", yref="paper", xanchor=side, **text)
    return figure


def cluster_strip(frame: pd.DataFrame, theme: str, *, num_experts: int) -> go.Figure:
    """Layer × expert, each in the colour of the expert that stands for its cluster. `frame`: layer, expert, cluster."""
    import plotly.graph_objects as go

    grid = frame.pivot(index="layer", columns="expert", values="cluster").astype("float64")
    shades = [expert_color(expert, num_experts) for expert in range(num_experts)]
    # Each colour fills its own part of the scale, from edge to edge, so that nothing is mixed.
    bands = [[(at + edge) / num_experts, shade] for at, shade in enumerate(shades) for edge in (0, 1)]
    hover = [
        [f"<b>Layer {layer} · expert {e}</b><br>" + _cluster_name(grid.at[layer, e]) for e in grid.columns]
        for layer in grid.index
    ]
    heatmap = go.Heatmap(
        z=grid.to_numpy(), x=grid.columns, y=np.arange(len(grid)), zmin=-0.5, zmax=num_experts - 0.5, showscale=False,
        xgap=1, ygap=2, colorscale=bands, text=hover,
        hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip
    figure = figure_of(theme, [heatmap], height=int(np.clip(26 * len(grid) + 70, 160, 640)))
    figure.update_xaxes(title_text="expert", showgrid=False, **whole_ticks(len(grid.columns)))
    every = max(1, -(-len(grid) // 24))
    ticks = {"tickvals": np.arange(0, len(grid), every), "ticktext": [str(layer) for layer in grid.index[::every]]}
    figure.update_yaxes(title_text="layer", showgrid=False, autorange="reversed", **ticks)
    return figure


def clustered(frame: pd.DataFrame, measure: str, experts: int) -> list[int]:
    """The experts in an order that puts alike ones beside each other (average linkage of 1 − the measure).

    `frame`: expert, other and the measure. Experts about which nothing is known keep their place at the end.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
    from scipy.spatial.distance import squareform

    grid = _grid(frame, measure, list(range(experts)))
    known = [e for e in range(experts) if np.isfinite(np.delete(grid[e], e)).any()]
    if len(known) < 3:
        return list(range(experts))
    alike = np.nan_to_num(grid[np.ix_(known, known)], nan=float(np.nanmin(grid)))
    apart = alike.max() - (alike + alike.T) / 2
    np.fill_diagonal(apart, 0)
    condensed = squareform(apart, checks=False)
    leaves = leaves_list(optimal_leaf_ordering(linkage(condensed, method="average"), condensed))
    return [known[at] for at in leaves] + [e for e in range(experts) if e not in known]


def _grid(frame: pd.DataFrame, column: str, order: list[int]) -> np.ndarray:
    size = max(order) + 1
    grid = np.full((size, size), np.nan)
    grid[frame["expert"].to_numpy(int), frame["other"].to_numpy(int)] = frame[column].to_numpy("float64")
    return grid[np.ix_(order, order)]


def _pair_hovers(grid: np.ndarray, counted: np.ndarray | None, measure: str, order: list[int]) -> list[list[str]]:
    name = "lift" if measure == "lift_distinct" else NAMES[measure]
    says = {"conditional": "of expert {a}'s tokens also choose {b}"}.get(measure)

    def hover(i: int, j: int) -> str:
        if i == j:
            return f"<b>expert {order[i]}</b>"
        value = percent(grid[i, j]) if measure == "conditional" else number(grid[i, j])
        what = f"{value} {says.format(a=order[i], b=order[j])}" if says else f"{name} {value}"
        more = "" if counted is None else f"<br>{count(counted[i, j])} tokens chose both"
        return f"<b>experts {order[i]} and {order[j]}</b><br>{what}{more}"

    return [[hover(i, j) for j in range(len(order))] for i in range(len(order))]


def _curves(ties: pd.DataFrame, angle: dict[int, float]) -> dict[str, Any]:
    """All these ties as one line with gaps: x, y, and what each says."""
    xs, ys, texts = [], [], []
    for tie in ties.itertuples():
        x, y = _tie(angle[tie.expert], angle[tie.other])
        says = f"<b>experts {tie.expert} and {tie.other}</b><br>nPMI {number(tie.npmi_distinct)}<br>"
        xs += [*x, np.nan]
        ys += [*y, np.nan]
        texts += [f"{says}{count(tie.n_ij)} tokens chose both"] * (len(x) + 1)
    return {"x": xs, "y": ys, "text": texts}


def _tie(first: float, second: float) -> tuple[np.ndarray, np.ndarray]:
    """A curve between two points of the circle, bent towards the middle."""
    t = np.linspace(0, 1, CURVE)
    ends = np.exp(1j * np.array([first, second]))
    path = (1 - t) ** 2 * ends[0] + t**2 * ends[1]  # quadratic, its control point in the middle
    return path.real, path.imag


def _nodes(load: pd.DataFrame, order: list[int], angle: dict[int, float], theme: str, chosen: int | None) -> Any:
    import plotly.graph_objects as go

    share = load.set_index("expert")["share"].reindex(order).fillna(0)
    crowded = len(order) > 96
    edge = [COLORS[theme]["ink"] if expert == chosen else COLORS[theme]["background"] for expert in order]
    return go.Scatter(
        x=[np.cos(angle[e]) * 1.05 for e in order],
        y=[np.sin(angle[e]) * 1.05 for e in order],
        mode="markers" if crowded else "markers+text",
        text=[str(e) for e in order],
        textposition=[_beside(angle[e]) for e in order],
        textfont={"size": 11 if len(order) > 32 else 13},
        marker={
            "size": 8 + 22 * np.sqrt(share / max(share.max(), 1e-9)) * (0.5 if len(order) > 32 else 1),
            "color": [expert_color(e, max(order) + 1) for e in order],
            "line": {"width": 2, "color": edge},
        },
        hovertext=[f"<b>expert {e}</b><br>{percent(s)} of the load" for e, s in share.items()],
        hoverinfo="text",
        showlegend=False,
        cliponaxis=False,
    )


def _beside(angle: float) -> str:
    up = "middle" if abs(np.sin(angle)) < 0.38 else "top" if np.sin(angle) > 0 else "bottom"
    side = "center" if abs(np.cos(angle)) < 0.38 else "right" if np.cos(angle) > 0 else "left"
    return f"{up} {side}"


def _flow_nodes(flows: pd.DataFrame) -> pd.DataFrame:
    """layer, expert, x, y of every expert that a flow touches; the ones with most tokens on top."""
    out = flows[["layer", "expert", "n"]]
    into = flows[["next_layer", "next_expert", "n"]].set_axis(["layer", "expert", "n"], axis=1)
    sums = [part.groupby(["layer", "expert"])["n"].sum() for part in (out, into)]
    size = pd.concat(sums, axis=1).max(axis=1).rename("n").reset_index()
    size = size.sort_values(["layer", "n"], ascending=[True, False], ignore_index=True)
    layers = sorted(size["layer"].unique())
    size["x"] = [0.001 + 0.998 * layers.index(layer) / max(1, len(layers) - 1) for layer in size["layer"]]
    by_layer = size.groupby("layer")["n"]
    gaps = (by_layer.transform("size") - 1) * GAP
    middle = (by_layer.cumsum() - size["n"] / 2) / by_layer.transform("sum")
    size["y"] = np.clip(middle * (1 - gaps) + by_layer.cumcount() * GAP, 0.001, 0.999)
    return size


def _cluster_name(cluster: float) -> str:
    return "gave no output" if np.isnan(cluster) else f"in the cluster of expert {int(cluster)}"


def _faint(color: str) -> str:
    red, green, blue = (int(color[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.4)"
