"""Uncertainty: where routers hesitate, over which tokens, and how many experts that would take."""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st

from app import charts, data, state, ui, words
from app.components import cells
from app.components.token_text import visible
from app.formats import NOTHING, count, number, percent, plural
from app.pages import Here, Page
from app.tables.intervals import FEWEST
from app.tables.uncertainty import MEASURES, by_label, overall

PAGE = Page(
    name="uncertainty", title="Uncertainty", icon=":material/psychology_alt:", section="Analyse", order=2, charts=True
)
SPREAD_ROWS = 150_000  # for the width of the intervals
TOP_P_ROWS = 60_000  # every row sorts the scores of all experts
MOST_LABELS = 10
FEWEST_SEEN = 20
AROUND, CONTEXTS, KINDS = 10, 12, 10
P = (0.3, 0.5, 0.7, 0.8, 0.9)
SHOWN_P = (0.5, 0.7, 0.9)


def render(here: Here) -> None:
    ui.heading(
        here.where,
        "Uncertainty",
        "Where in the model routers hesitate, over which kinds of text and which tokens, and how many experts a router "
        "would use that takes as many as it needs.",
    )
    sums = data.ask(here.trace, "label_uncertainty", here.run_id)
    if not data.load(here.trace, here.run_id)["count"].any():
        ui.nothing_yet(here.recording)
        return
    if sums.empty:
        ui.note("Entropy and margin need router logits, and none were recorded: probe record … --capture logits")
        return
    _by_layer(here, sums)
    _tokens(here)
    _top_p(here)


@ui.part
def _by_layer(here: Here, sums: pd.DataFrame) -> None:
    name = state.one_of("sure", list(MEASURES))
    measure = MEASURES[name]
    sequences, _ = data.drawn(here.trace, here.run_id, SPREAD_ROWS)
    sampled = data.ask(here.trace, "sequence_uncertainty", here.run_id, tuple(sequences))
    n_sequences = int(here.run["n_sequences"])
    whole = overall(sums, sampled, here.layers, measure, n_sequences)
    labels = by_label(sums.dropna(subset=["label"]), here.layers, measure)
    largest = labels.groupby("label")["n"].sum().sort_values(ascending=False, kind="stable").index[:MOST_LABELS]
    shown = labels[labels["label"].isin(largest)].sort_values(["label", "layer"])
    says = words.curve(whole, measure.title) + words.label_range(shown)
    ui.section("In which layers, and over what, do routers hesitate?", says)
    state.pick(
        "Measure", "sure", list(MEASURES), kind="segmented", shown=lambda key: MEASURES[key].title,
        label_visibility="collapsed",
    )  # fmt: skip
    top = 1.02 if measure.normalized else None
    interval = ("No interval:", f"{plural(n_sequences, 'sequence')} say too little about how much others would differ.")
    if n_sequences >= FEWEST:
        width = f", interval width estimated from {count(len(sequences))} of them"
        drawn = "" if len(sequences) >= n_sequences else width
        interval = ("Band", f"= 95 % interval of all tokens, bootstrap over {plural(n_sequences, 'sequence')}{drawn}.")
    ui.chart_block(
        data.once(charts.label_lines, whole, shown, ui.theme(), name=measure.title, top=top),
        name="uncertainty",
        alt=f"Lines of {measure.title.lower()} by layer, for all tokens and by label. {says}",
        meanings=[
            (measure.title, measure.meaning),
            ("Scores", _scores(here)),
            interval,
            ("n", f"= {plural(whole['n'].max(), 'token')} per layer, all of them."),
        ],
        rows=pd.concat([whole.assign(label=None), labels], ignore_index=True),
    )


def _scores(here: Here) -> str:
    kinds = sorted({str(kind) for kind in here.layers["gating"].dropna() if kind})
    if any("sigmoid" in kind for kind in kinds):
        return "= sigmoid scores divided by their sum, as this router's experts do not compete."
    return "= softmax of the router's logits over all experts of a layer."


@ui.part
def _tokens(here: Here) -> None:
    ui.section("Over which tokens?")
    column, _ = st.columns([0.3, 0.7])
    with column:
        layers = ["all", *(int(layer) for layer in here.layers["layer"])]
        shown = lambda layer: "mean of all layers" if layer == "all" else f"layer {layer}"  # noqa: E731
        chosen = state.pick("Entropy in", "unsure_layer", layers, shown=shown)
    layer = None if chosen == "all" else int(chosen)
    found = data.ask(here.trace, "uncertain_contexts", here.run_id, layer, None, AROUND, CONTEXTS)
    if found.empty:
        ui.note("No token has an entropy.")
        return
    elsewhere = state.read_int("layer")
    link_layer = layer if layer is not None else elsewhere if elsewhere in layers else None
    ui.html(cells.table(
        ["in context", "#entropy (nats)", "label", "sequence · position"],
        [
            [
                cells.context(list(row.tokens), int(row.position) - int(row.first)),
                number(row.entropy),
                row.label if isinstance(row.label, str) else NOTHING,
                cells.link("tokens", f"{row.sequence_id} · {row.position}", by="entropy", layer=link_layer,
                           sequence=row.sequence_id, token=row.position),
            ]
            for row in found.itertuples()
        ],
        caption="The least certain occurrence of each token, the highest entropy first.",
    ))  # fmt: skip
    _kinds(here, layer)
    ui.quiet(f"From all {plural(here.run['n_tokens'], 'token')} of {plural(here.run['n_sequences'], 'sequence')}.")


def _kinds(here: Here, layer: int | None) -> None:
    table = data.ask(here.trace, "token_entropies", here.run_id, layer, None, FEWEST_SEEN)
    if len(table) < 2 or table["token"].isna().all():
        return
    half = min(KINDS, len(table) // 2)
    most = float(table["entropy"].max())
    for column, title, part in zip(
        st.columns(2, gap="large"),
        ("Hesitated over most, as a kind of token", "Surest of"),
        (table.head(half), table.tail(half).iloc[::-1]),
        strict=True,
    ):
        with column:
            cells_of = [
                [cells.token_of(row), number(row.entropy), cells.bar(row.entropy / most, wide=True), count(row.n)]
                for row in part.itertuples()
            ]
            ui.html(cells.table(["token", "#mean entropy", "", "#seen"], cells_of, caption=title))
    ui.data_buttons(
        "token-entropy-kinds", table.assign(token=[visible(t) if isinstance(t, str) else t for t in table["token"]])
    )


@ui.part
def _top_p(here: Here) -> None:
    if not data.ask(here.trace, "recorded", here.run_id)["logits"]:
        ui.section("How many experts would top-p use?")
        ui.note("That needs the logits of single tokens, and none were kept: probe record … --capture logits")
        return
    table, sample = data.analysis(here.trace, here.run_id, "top_p_experts", p=P, ci=True, most_rows=TOP_P_ROWS)
    top_k = int(here.layers["top_k"].max())
    ui.section("How many experts would top-p use?", words.top_p(table, top_k))
    rows = table.drop(columns="histogram")
    shown = rows[rows["p"].isin(SHOWN_P)]
    command = f"probe analyze top_p_experts {here.trace.quoted} --p 0.7 --ci"
    ui.chart_block(
        data.once(charts.needed_curve, shown, ui.theme(), top_k=top_k),
        name="top-p",
        alt=f"Curves of the mean number of experts by layer for three values of p. {words.top_p(table, top_k)}",
        meanings=[
            (
                "Top-p",
                "= take experts in order of their score until together they have more than p (arXiv 2403.07652).",
            ),
            ("Bands", "= 95 % intervals, bootstrap over sequences."),
            ("n", f"= {plural(table['n_tokens'].max(), 'token')} per layer, {words.sample(sample, command)}."),
        ],
        rows=rows,
    )
    _needed(here, table)


@ui.part
def _needed(here: Here, table: pd.DataFrame) -> None:
    layers = [int(layer) for layer in here.layers["layer"]]
    left, right, _ = st.columns([0.2, 0.4, 0.4])
    with left:
        layer = state.pick("Layer", "layer", layers, default=layers[len(layers) // 2])
    with right:
        p = float(state.pick("p", "p", [str(p) for p in P], default="0.7", kind="segmented"))
    row = table[(table["layer"] == layer) & (table["p"] == p)].iloc[0]
    histogram = np.asarray(row["histogram"], dtype=np.int64)
    top_k = int(here.layers.set_index("layer")["top_k"].loc[layer])
    enough = histogram[:top_k].sum() / max(histogram.sum(), 1)
    says = f"In layer {layer}, {percent(enough)} of the tokens need at most the {top_k} experts they get, at p = {p:g}."
    ui.chart_block(
        data.once(charts.needed_bars, histogram, top_k, ui.theme()),
        name="needed",
        alt=f"Bars of the number of experts that tokens need. {says}",
        meanings=[
            ("", says),
            ("Set off", f"= top-k: {top_k} in this layer."),
            ("n", f"= {plural(row['n_tokens'], 'token')}."),
        ],
        rows=pd.DataFrame({"experts": np.arange(1, len(histogram) + 1), "n_tokens": histogram}),
    )
