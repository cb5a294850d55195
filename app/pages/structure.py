"""Structure: experts that fire together, where tokens flow from layer to layer, experts that do the same."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from app import charts, data, state, ui, words
from app.formats import count, number, percent, plural
from app.pages import Here, Page
from app.palette import expert_color
from app.tables.intervals import FEWEST

PAGE = Page(name="structure", title="Structure", icon=":material/hub:", section="Analyse", order=4, charts=True)
PAIRS = {"npmi_distinct": "above chance (nPMI)", "lift_distinct": "lift", "conditional": "share"}
ABOVE_CHANCE = ["npmi_distinct", "lift_distinct"]
TIES = 60  # drawn at most
FEWEST_TOGETHER = 5  # tokens, below which a tie is noise
FLOWS = 12  # per pair of layers
SPAN = 4  # layers of a flow chart
RESAMPLES = 200  # a resample is a table of expert × expert for every layer: more would take seconds


def render(here: Here) -> None:
    ui.heading(
        here.where,
        "Structure",
        "Experts do not work alone: some are chosen together, some follow each other through the layers, some do "
        "nearly the same.",
    )
    load = data.load(here.trace, here.run_id)
    if not load["count"].any():
        ui.nothing_yet(here.recording)
        return
    layers = [int(layer) for layer in here.layers["layer"]]
    left, right = st.columns([0.2, 0.8])
    with left:
        layer = state.pick("Layer", "layer", layers, default=layers[len(layers) // 2])
    row = here.layers.set_index("layer").loc[layer]
    with right:
        shown = lambda expert: "all experts" if expert == "" else f"expert {expert}"  # noqa: E731
        chosen = state.pick("Mark", "expert", ["", *range(int(row["num_experts"]))], shown=shown, width=220)
    expert = None if chosen == "" else int(chosen)
    _together(here, load, layer, expert)
    _flow(here, layer, expert)
    _alike(here, layer)


@ui.part
def _together(here: Here, load: pd.DataFrame, layer: int, expert: int | None) -> None:
    title = f"Which experts of layer {layer} are chosen together?"
    if int(here.layers.set_index("layer")["top_k"].loc[layer]) < 2:
        ui.section(title)
        ui.note("Every token goes to one expert of this layer, so none are chosen together.")
        return
    found = data.analysis_or_why(here.trace, here.run_id, "coactivation", layers=(layer,))
    if isinstance(found, str):
        ui.section(title)
        ui.note(found)
        return
    pairs = found.table.astype({"expert": int, "other": int})
    ties = _ties(pairs)
    says = _pair_words(ties, pairs, expert)
    ui.section(title, says)
    with st.container(horizontal=True):
        measure = state.pick("Colour", "pairs", list(PAIRS), kind="segmented", shown=PAIRS.__getitem__)
        how = state.pick("Order", "order", ["alike together", "by number"], kind="segmented")
    experts = int(here.layers.set_index("layer")["num_experts"].loc[layer])
    order = (
        data.once(charts.clustered, pairs, "npmi_distinct", experts)
        if how == "alike together"
        else list(range(experts))
    )
    n = f"= {plural(found.table['n_tokens'].max(), 'token')}, {words.sample(found.sample)}."
    ui.chart_block(
        data.once(charts.pair_heatmap, pairs, ui.theme(), measure=measure, order=order),
        name="coactivation",
        alt=f"Matrix of co-activation in layer {layer}. {says}",
        meanings=[
            ("Chance", words.CHANCE_OF_PAIRS),
            ("nPMI", "= how much more often than by chance two experts are chosen together: 0 = by chance, 1 = never "
             "apart, −1 = never together (npmi_distinct)."),
            ("Lift", "= the same as a factor: 1 (log₂ 0) is chance, 2 (log₂ 1) twice as often (lift_distinct). The "
             "published lift in the table, p_ij / (p_i p_j), is below 1 for random pairs."),
            ("Share", "= of the row's tokens, how many also choose the column's expert."),
            ("n", n),
        ],
        rows=pairs,
    )  # fmt: skip
    ui.section("The strongest ties", _tie_words(ties, expert))
    drawn = ties.head(TIES) if expert is None else _of(ties, expert).head(TIES)
    if drawn.empty:
        return
    own = load[load["layer"] == layer]
    ui.chart_block(
        data.once(charts.tie_graph, drawn, own, ui.theme(), order=order, chosen=expert),
        name="ties",
        alt=f"Graph of experts chosen together in layer {layer}. {_tie_words(ties, expert)}",
        meanings=[
            ("A curve", f"joins two experts that at least {FEWEST_TOGETHER} tokens chose together, more often than by "
             "chance; the thicker, the higher its nPMI."),
            ("A dot", "is an expert, as large as its load; neighbours on the circle are alike in whom they go with."),
            ("n", n),
        ],
        rows=drawn,
    )  # fmt: skip


def _ties(pairs: pd.DataFrame) -> pd.DataFrame:
    """Pairs chosen together more often than by chance, each once, the strongest first."""
    once = pairs[(pairs["expert"] < pairs["other"]) & (pairs["n_ij"] >= FEWEST_TOGETHER) & (pairs["npmi_distinct"] > 0)]
    return once.sort_values("npmi_distinct", ascending=False)[["expert", "other", *ABOVE_CHANCE, "n_ij"]]


def _of(ties: pd.DataFrame, expert: int) -> pd.DataFrame:
    return ties[(ties["expert"] == expert) | (ties["other"] == expert)]


def _pair_words(ties: pd.DataFrame, pairs: pd.DataFrame, expert: int | None) -> str:
    mine = ties if expert is None else _of(ties, expert)
    if mine.empty:
        return "No two experts are chosen together more often than chance would have it."
    top, never = mine.iloc[0], int((pairs["n_ij"] == 0).sum() // 2)
    says = (
        f"Experts {int(top['expert'])} and {int(top['other'])} go together most: "
        f"{number(top['lift_distinct'])} times as often as by chance (nPMI {number(top['npmi_distinct'])}, "
        f"{plural(top['n_ij'], 'token')})"
    )
    return f"{says}; {plural(never, 'pair')} {'is' if never == 1 else 'are'} never chosen together."


def _tie_words(ties: pd.DataFrame, expert: int | None) -> str:
    if expert is not None:
        mine = _of(ties, expert).head(3)
        others = [int(row.other if row.expert == expert else row.expert) for row in mine.itertuples()]
        named = ", ".join(map(str, others))
        return f"Expert {expert} goes with experts {named}." if others else f"Expert {expert} goes with no one."
    strong = f"the {TIES} strongest of {count(len(ties))}" if len(ties) > TIES else f"all {count(len(ties))}"
    return f"Pairs chosen together more often than by chance: {strong}." if len(ties) else "There are none."


@ui.part
def _flow(here: Here, layer: int, expert: int | None) -> None:
    title = "Where do tokens go from layer to layer?"
    layers = [int(number_) for number_ in here.layers["layer"]]
    if len(layers) < 2:
        ui.section(title)
        ui.note("The run has one MoE layer, so there is nowhere to go.")
        return
    ci = int(here.run["n_sequences"]) >= FEWEST
    found = data.analysis_or_why(here.trace, here.run_id, "cross_layer", ci=ci, resamples=RESAMPLES)
    first = min(layers.index(layer), max(0, len(layers) - SPAN))
    window = tuple(layers[first : first + SPAN])
    moves = data.analysis_or_why(here.trace, here.run_id, "cross_layer", layers=window, transitions=True)
    if isinstance(found, str) or isinstance(moves, str):
        ui.section(title)
        ui.note(found if isinstance(found, str) else str(moves))
        return
    flows = _top_flows(moves.table, state.one_of("flows", ["tokens", "above chance"]), layer, expert)
    says = _flow_words(flows)
    ui.section(title, says)
    state.pick("Top flows by", "flows", ["tokens", "above chance"], kind="segmented")
    if flows.empty:
        ui.note("No token's first choice leads on from this expert here.")
    else:
        ui.chart_block(
            data.once(charts.flow_sankey, flows, ui.theme(), num_experts=int(here.layers["num_experts"].max())),
            name="flow",
            alt=f"Flow chart of tokens from layer to layer. {says}",
            meanings=[
                ("A band", f"is the tokens whose first choice was one expert, then the next. Drawn are the {FLOWS} "
                 "largest for each pair of layers; the rest is left out."),
                ("Above chance", f"= tokens ÷ what would come if both layers chose by themselves, of flows with at "
                 f"least {FEWEST_TOGETHER * 4} tokens."),
                ("n", f"= {plural(moves.table['n_tokens'].max(), 'token')}, "
                 f"{words.sample(moves.sample, f'probe analyze cross_layer {here.trace.quoted} --transitions')}."),
            ],
            rows=flows,
        )  # fmt: skip
    _information(here, found, ci)


def _top_flows(table: pd.DataFrame, by: str, layer: int, expert: int | None) -> pd.DataFrame:
    """The largest flows of each pair of layers; from and into one expert of the layer, where one is marked."""
    pair = table.groupby(["layer", "next_layer"])
    total = pair["n"].transform("sum")
    sent = table.groupby(["layer", "expert"])["n"].transform("sum")
    got = table.groupby(["layer", "next_expert"])["n"].transform("sum")
    lift = table["n"] * total / (sent * got).where(sent * got > 0)
    flows = table.assign(lift=lift)[["layer", "expert", "next_layer", "next_expert", "n", "share", "lift"]]
    flows = flows[flows["n"] > 0].astype({"expert": int, "next_expert": int, "n": int})
    if expert is not None:
        own = (flows["layer"] == layer) & (flows["expert"] == expert)
        flows = flows[own | ((flows["next_layer"] == layer) & (flows["next_expert"] == expert))]
    if by == "above chance":
        flows = flows[flows["n"] >= FEWEST_TOGETHER * 4]
    order = flows.sort_values("n" if by == "tokens" else "lift", ascending=False, kind="stable")
    return order.groupby("layer", sort=False).head(FLOWS).sort_values(["layer", "n"], ascending=[True, False])


def _flow_words(flows: pd.DataFrame) -> str:
    if flows.empty:
        return ""
    top = flows.loc[flows["lift"].idxmax()]
    return (
        f"Strongest flow shown: layer {int(top['layer'])} expert {int(top['expert'])} to layer "
        f"{int(top['next_layer'])} expert {int(top['next_expert'])}: {percent(top['share'])} of its tokens, "
        f"{number(top['lift'])} times what chance would send."
    )


def _information(here: Here, found: Any, ci: bool) -> None:
    table = found.table.astype({"layer": int, "next_layer": int})
    curve = table[["layer", "nmi", "n_tokens"]].rename(columns={"nmi": "value", "n_tokens": "n"})
    scale = (table["nmi"] / table["mi_bits"]).where(table["mi_bits"] > 0)
    for end in ("low", "high"):  # the interval is of the bits; the entropies it is divided by hardly vary
        curve[end] = (table[f"ci_{end}"] * scale).clip(lower=0) if ci else np.nan
    says = words.curve(curve, "what a layer's choice says about the next one's, normalised,")
    ui.section("How much does a layer tell the next?", says)
    ui.chart_block(
        data.once(charts.layer_curve, curve, ui.theme(), name="normalised information"),
        name="information",
        alt=f"Curve of mutual information between neighbouring layers. {says}",
        meanings=[
            ("Information", "= mutual information between the first choices in a layer and in the next MoE layer, over "
             "the mean of their entropies: 0 = the one says nothing about the other, 1 = everything. As many tokens of "
             f"layers that ignore each other would show up to {number((table['mi_chance'] * scale).max())}."),
            ("Band", "= 95 % interval of the information, "
             f"bootstrap over sequences ({RESAMPLES} resamples).")
            if ci else ("No interval:", "too few sequences to say how much others would differ."),
            ("n", f"= {plural(table['n_tokens'].max(), 'token')}, "
             f"{words.sample(found.sample, f'probe analyze cross_layer {here.trace.quoted}')}."),
        ],
        rows=table,
    )  # fmt: skip


def _alike(here: Here, layer: int) -> None:
    title = f"Which experts of layer {layer} do nearly the same?"
    found = data.analysis_or_why(here.trace, here.run_id, "expert_similarity", layers=(layer,))
    if isinstance(found, str):
        ui.section(title)
        ui.note(found)
        return
    table = found.table.astype({"expert": int, "other": int})
    says = _similar_words(table)
    ui.section(title, says)
    experts = int(here.layers.set_index("layer")["num_experts"].loc[layer])
    ui.chart_block(
        data.once(
            charts.pair_heatmap,
            table,
            ui.theme(),
            measure="similarity",
            order=data.once(charts.clustered, table, "similarity", experts),
        ),
        name="similarity",
        alt=f"Matrix of the similarity of experts in layer {layer}. {says}",
        meanings=[
            ("Cosine", "of the experts' mean outputs over the run: 1 = the same direction, 0 = nothing in common."),
            ("n", f"= {plural(table['n_tokens'].max(), 'token')}, all of the run."),
        ],
        rows=table,
    )
    _clusters(here)


def _similar_words(table: pd.DataFrame) -> str:
    known = table.dropna(subset=["similarity"])
    if known.empty:
        return ""
    top = known.loc[known["similarity"].idxmax()]
    return (
        f"Experts {int(top['expert'])} and {int(top['other'])} are the most alike: cosine {number(top['similarity'])} "
        f"between their mean outputs; the median pair has {number(known['similarity'].median())}."
    )


@ui.part
def _clusters(here: Here) -> None:
    experts = int(here.layers["num_experts"].max())
    wanted = int(
        state.amount("Clusters per layer", "clusters", (experts + 1) // 2, low=1, high=experts, step=1.0, format="%.0f",
                     width=220)
    )  # fmt: skip
    found = data.analysis_or_why(here.trace, here.run_id, "expert_clusters", clusters=wanted)
    if isinstance(found, str):
        ui.note(found)
        return
    sizes = found.table.dropna(subset=["cluster"]).groupby(["layer", "cluster"]).size()
    layer, cluster = sizes.idxmax() if len(sizes) else (0, 0)
    says = f"The largest cluster has {plural(sizes.max() if len(sizes) else 0, 'expert')}, around expert {cluster} of "
    says += f"layer {layer}."
    ui.section("Which could be merged?", says)
    ui.chart_block(
        data.once(charts.cluster_strip, found.table, ui.theme(), num_experts=experts),
        name="clusters",
        alt=f"Clusters of experts by layer. {says}",
        meanings=[
            ("A colour", "is a cluster: that of the expert that stands for it, the one chosen most often."),
            ("Clusters", "of experts with near mean outputs: average linkage, Euclidean distance (HC-SMoE)."),
        ],
        rows=found.table,
    )
    ui.html(_cluster_list(found.table, experts))


def _cluster_list(table: pd.DataFrame, experts: int) -> str:
    """Clusters of more than one expert, as chips by layer."""
    rows = []
    for layer, own in table.dropna(subset=["cluster"]).groupby("layer"):
        groups = [group["expert"].tolist() for _, group in own.groupby("cluster") if len(group) > 1]
        chips = " &nbsp; ".join(" ".join(_chip(int(expert), experts) for expert in group) for group in groups)
        rows.append(f"<dt>layer {escape(str(layer))}</dt><dd>{chips or 'each by itself'}</dd>")
    return f'<div class="rw-facts"><dl>{"".join(rows)}</dl></div>'


def _chip(expert: int, experts: int) -> str:
    return f'<span class="rw-key"><i style="background: {expert_color(expert, experts)}"></i>{expert}</span>'
