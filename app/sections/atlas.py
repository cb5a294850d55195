"""A map of experts or tokens, laid out on request and coloured by what is known of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from app import charts, data, state, ui
from app.components.token_text import visible
from app.formats import number, plural
from app.pages import Here
from app.tables import atlas

ATLAS_ROWS = 120_000
EXPERT_COLUMNS = {"layer": "Layer", "label": "Label it goes with most", "load": "Load ÷ uniform", "n": "Tokens"}
TOKEN_COLUMNS = {
    "label": "Label", "expert": "Expert", "entropy": "Entropy", "margin": "Margin", "surprisal": "Surprisal",
    "position": "Position", "phase": "Phase",
}  # fmt: skip


@ui.part
def atlas_section(here: Here, layer: int, labelled: bool) -> None:
    ui.section(
        "A map of experts and tokens",
        "What is routed alike lies near. Drawn on request: laying out takes some seconds.",
    )
    first, second, third, fourth = st.columns([0.22, 0.2, 0.34, 0.24], vertical_alignment="bottom")
    with first:
        what = state.pick("Points", "atlas", ["experts", "tokens"], kind="segmented")
    with second:
        method = state.pick("Method", "method", list(atlas.METHODS), kind="segmented", shown=str.upper)
    columns = EXPERT_COLUMNS if what == "experts" else TOKEN_COLUMNS
    columns = {name: title for name, title in columns.items() if name != "label" or labelled}
    with third:
        by = state.pick("Colour", "atlas_by", list(columns), shown=columns.__getitem__)
    with fourth:
        wanted = st.button("Draw the map", icon=":material/scatter_plot:", type="primary")
    key = f"{here.trace}:{here.run_id}:{what}:{layer if what == 'tokens' else ''}:{method}"
    if wanted:
        st.session_state["atlas_drawn"] = key
    if st.session_state.get("atlas_drawn") != key:
        ui.note("No map drawn yet for this choice.")
        return
    points = _points(here.trace, here.run_id, what, layer, method)
    if len(points) < 3:
        ui.note("Too few points for a map: fewer than three experts were chosen often enough.")
        return
    _draw_atlas(here, points, what, layer, method, by, columns[by])


def _draw_atlas(here: Here, points: pd.DataFrame, what: str, layer: int, method: str, by: str, title: str) -> None:
    kind = "expert" if by == "expert" else "category" if by in ("label", "phase") else "amount"
    experts = int(here.layers["num_experts"].max())
    shown = points.rename(columns={by: title}) if by in points else points
    if kind == "amount" and shown[title].isna().all():
        ui.note(f"{title}: not recorded in this run. Colour by something else.")
        return
    of = f"{plural(len(points), what[:-1])}" + (f" of layer {layer}" if what == "tokens" else " of all layers")
    local = (
        (
            "Distances are local:",
            "UMAP keeps who is near whom; how far apart two clouds are, and how large a cloud is, means nothing.",
        )
        if method == "umap" and len(points) > atlas.NEIGHBOURS
        else (
            "PCA",
            "= the two directions in which the points differ most; distances are those of that plane, "
            "and the rest is not shown.",
        )
    )
    described = (
        ("Near", "= chosen for the same tokens: the Hellinger distance between the tokens two experts take.")
        if what == "experts"
        else ("Near", "= scored alike by this layer's router: the Hellinger distance of the scores over all experts.")
    )
    sequences, n_tokens = data.drawn(here.trace, here.run_id, ATLAS_ROWS)
    ui.chart_block(
        data.once(charts.atlas, shown, ui.theme(), by=title, kind=kind, num_experts=experts),
        name="atlas",
        alt=f"Map ({method.upper()}) of {of}, coloured by {title.lower()}.",
        meanings=[
            described,
            local,
            ("n", f"= {of}, from {plural(n_tokens, 'token')} of {plural(len(sequences), 'sequence')} drawn evenly."),
        ],
        rows=points.drop(columns="hover"),
    )


@st.cache_data(show_spinner="Laying out the map …", max_entries=16)
def _points(trace: data.TraceFile, run_id: int, what: str, layer: int, method: str) -> pd.DataFrame:
    sequences, _ = data.drawn(trace, run_id, ATLAS_ROWS)
    opened = data.open_file(trace)
    names = np.array([*opened.label_names(run_id), None], object)
    if what == "experts":
        rows, features = atlas.experts(opened, run_id, sequences)
        rows = _about_experts(trace, run_id, rows, bool(len(names) - 1))
    else:
        rows, features = atlas.tokens(opened, run_id, sequences, layer)
        rows["label"] = names[rows["label"].to_numpy()]
        rows["surprisal"] = -rows["logprob"]
        rows["phase"] = rows["phase"].map({0: "prefill", 1: "decode"})
        rows["hover"] = [_token_hover(row) for row in rows.itertuples()]
    if len(rows) < 3:
        return rows
    return rows.assign(**dict(zip("xy", atlas.layout(features, method).T, strict=True)))


def _about_experts(trace: data.TraceFile, run_id: int, rows: pd.DataFrame, labelled: bool) -> pd.DataFrame:
    load = data.load(trace, run_id)[["layer", "expert", "ratio"]].rename(columns={"ratio": "load"})
    rows = rows.merge(load, on=["layer", "expert"], how="left")
    if labelled:
        npmi, _ = data.analysis(trace, run_id, "npmi")
        known = npmi[npmi["npmi"].notna()]
        best = known.loc[known.groupby(["layer", "expert"])["npmi"].idxmax(), ["layer", "expert", "target", "npmi"]]
        rows = rows.merge(best.rename(columns={"target": "label"}), on=["layer", "expert"], how="left")
    rows["hover"] = [
        f"<b>Layer {r.layer} · expert {r.expert}</b><br>{number(r.load)} × the uniform load"
        + (f"<br>most with {charts.plain(r.label)} (nPMI {number(r.npmi)})" if labelled else "")
        for r in rows.itertuples()
    ]
    return rows


def _token_hover(row: Any) -> str:
    text = visible(row.token) if isinstance(row.token, str) else f"id {row.token_id}"
    label = f"<br>{charts.plain(row.label)}" if row.label else ""
    where = f"sequence {row.sequence_id}, position {row.position}"
    return f"<b>{charts.plain(text)}</b><br>{where}{label}<br>expert {row.expert}"
