"""Specialization: which experts go with which labels and tokens, what tells two sets apart, and a map of it all."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app import charts, data, state, ui, words
from app.components import cells
from app.components.token_text import visible
from app.formats import count, number, percent, plural
from app.pages import Here, Page
from app.sections.atlas import atlas_section
from app.sections.contrast import contrast_section
from app.tables.specialization import clustered, label_grid, largest_labels, strongest
from probes.metrics.chance import largest_share

PAGE = Page(
    name="specialization", title="Specialization", icon=":material/target:", section="Analyse", order=0, charts=True
)
VALUES = {"npmi": "nPMI", "share": "share of tokens"}
FEWEST = 20  # occurrences below which a token's share says little
VOCABULARY_ROWS = 200
VOCABULARY = "Does one expert take all occurrences of a token?"


def render(here: Here) -> None:
    ui.heading(
        here.where,
        "Specialization",
        "Which experts go with which labels and tokens, and what tells one kind of text from another.",
    )
    if not data.load(here.trace, here.run_id)["count"].any():
        ui.nothing_yet(here.recording)
        return
    labels = data.ask(here.trace, "labels", here.run_id)
    layer = ui.pick_layer(here)
    if len(labels):
        _labels(here, layer)
    else:
        ui.section("Which experts go with which labels?")
        ui.note(
            "The sequences have no labels. Record prompts with a label, or import `label`, to compare kinds of text."
        )
    contrast_section(here, labels["label"].tolist())
    _vocabulary(here, layer)
    atlas_section(here, layer, bool(len(labels)))


@ui.part
def _labels(here: Here, layer: int) -> None:
    table, sample = data.analysis(here.trace, here.run_id, "npmi")
    best = strongest(table)
    says = words.strongest_labels(best[best["layer"] == layer], layer)
    ui.section("Which experts go with which labels?", says)
    left, right = st.columns([0.4, 0.6])
    with left:
        value = state.pick("Show", "value", list(VALUES), kind="segmented", shown=VALUES.__getitem__)
    with right:
        order = state.pick("Order", "order", ["clusters", "numbers"], kind="segmented",
                           help="Clusters: alike beside alike (average linkage over the values shown).")  # fmt: skip
    labels = largest_labels(table)
    shown, name = (table, "npmi") if value == "npmi" else (_shares(here), "excess")
    grid = label_grid(shown, layer, name, labels)
    grid = clustered(grid) if order == "clusters" else grid
    counts = label_grid(table, layer, "n_xy", labels).reindex(index=grid.index, columns=grid.columns)
    rows = table[(table["layer"] == layer) & table["target"].isin(labels)]
    ui.chart_block(
        data.once(
            charts.label_heatmap,
            grid,
            ui.theme(),
            name="nPMI" if value == "npmi" else "share − k/E",
            across="expert",
            counts=counts,
        ),
        name="labels",
        alt=f"Heat-map of labels by expert in layer {layer}. {says}",
        meanings=[
            *MEANINGS[value],
            _many(table, labels),
            ("n", f"= {plural(rows['n_tokens'].max(), 'token')}, {words.sample(sample)}."),
        ],
        rows=rows,
    )
    _depth(best, labels)


MEANINGS = {
    "npmi": [
        ("nPMI", "= how much more often label and expert come together than by chance: log₂ p(x,y) / (p(x) p(y)), "
                 "over −log₂ p(x,y)."),
        ("0", "is chance, 1 always together; −1 never. The scale ends at the largest value on both sides."),
    ],
    "share": [
        ("Share", "= part of the label's tokens that choose the expert, minus k/E, what chance would give."),
        ("Above 0", "the expert takes more of the label than chance would give it."),
    ],
}  # fmt: skip


def _many(table: pd.DataFrame, labels: list[str]) -> tuple[str, str]:
    n = table["target"].nunique()
    return ("Labels:", f"the {len(labels)} largest of {count(n)}." if n > len(labels) else f"all {n}.")


def _shares(here: Here) -> pd.DataFrame:
    table, _ = data.analysis(here.trace, here.run_id, "domain_specialization")
    return table.assign(excess=table["share"] - table["uniform"])


def _depth(best: pd.DataFrame, labels: list[str]) -> None:
    """Where in the model labels have experts of their own."""
    if best["layer"].nunique() < 2:
        return
    grid = best.pivot(index="target", columns="layer", values="npmi").reindex(labels)
    counts = best.pivot(index="target", columns="layer", values="n_xy").reindex(labels)
    says = words.deepest_labels(best)
    ui.section("In which layers do labels have experts of their own?", says)
    ui.chart_block(
        data.once(
            charts.label_heatmap, grid, ui.theme(), name="largest nPMI", across="layer", counts=counts, from_zero=True
        ),
        name="label-depth",
        alt=f"Heat-map of the largest nPMI by label and layer. {says}",
        meanings=[
            ("Largest nPMI", "= that of the expert which goes most with the label in this layer."),
            (
                "Careful:",
                "a largest of many is above 0 by chance too; what survives a test is shown in the contrast below.",
            ),
        ],
        rows=best[["target", "layer", "expert", "npmi", "n_xy", "n_x", "n_y", "n_tokens"]],
    )


def _largest_by_chance(here: Here, layer: int) -> float:
    """Share of the most frequent first expert among FEWEST random tokens."""
    totals = data.ask(here.trace, "expert_totals", here.run_id)
    return largest_share(FEWEST, totals.loc[totals["layer"] == layer, "n_first"].to_numpy(float))


@ui.part
def _vocabulary(here: Here, layer: int) -> None:
    table = data.ask(here.trace, "token_experts", here.run_id, layer, None, 1, 1_000_000)
    if len(table) and table["token"].isna().all() and table["token_id"].isna().all():
        ui.section(VOCABULARY)
        ui.note("Neither the text nor the ids of the tokens are in this trace.")
        return
    often = table[table["n"] >= min(FEWEST, int(table["n"].max()) if len(table) else 1)]
    says = words.vocabulary(table, often, layer)
    ui.section(VOCABULARY, says)
    if table.empty:
        return
    experts = int(here.layers.set_index("layer")["num_experts"].loc[layer])
    rows = [
        [
            cells.token_of(row),
            cells.expert(layer, int(row.expert), experts),
            percent(row.share),
            cells.bar(row.share, wide=True),
            count(row.n),
        ]
        for row in often.head(VOCABULARY_ROWS).itertuples()
    ]
    left, right = st.columns([0.74, 0.26], gap="medium")
    with left:
        ui.html(cells.table(["token", "its main expert", "#share", "", "#occurrences"], rows))
    with right:
        ui.definition(
            [
                (
                    "Share",
                    "p(v) = part of a token's occurrences whose first expert is the same one; the expert with "
                    "the most.",
                ),
                (
                    "Chance",
                    f"would give a token seen {FEWEST} times {percent(_largest_by_chance(here, layer))} with its most "
                    "frequent expert, at these loads (simulated); less to those seen more often. Only tokens seen "
                    f"{FEWEST} times or more are listed.",
                ),
                (
                    "Over all tokens",
                    f"the unweighted mean is {number(table['share'].mean())} (OLMoE's vocabulary "
                    f"specialization, n = {plural(len(table), 'token')} of the vocabulary).",
                ),
                (
                    "n",
                    f"= {plural(here.run['n_tokens'], 'token')} of {plural(here.run['n_sequences'], 'sequence')}, all.",
                ),
            ]
        )
        ui.data_buttons(
            "vocabulary", often.assign(token=[visible(t) if isinstance(t, str) else t for t in often["token"]])
        )
