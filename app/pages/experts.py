"""Experts: one expert's card: what it goes with, where it fires, how much it does, with whom, and what it is worth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from app import charts, data, state, ui, words
from app.components import cells
from app.components.token_text import visible
from app.formats import NOTHING, count, number, percent, plural
from app.pages import Here, Page
from app.palette import expert_color
from app.tables import atlas
from app.tables.experts import alike, token_scores
from app.tables.specialization import largest_labels
from probes.errors import ProbeError

PAGE = Page(name="experts", title="Experts", icon=":material/badge:", section="Look", order=2, charts=True)
SAMPLE_TOKENS = 40_000  # tokens of one layer that contexts, tokens and profiles are read from
AROUND = 10  # tokens shown on each side of one that chose the expert
CONTEXTS = 12
PARTNERS = 8
LABEL_ROWS = 60_000  # of one layer: enough for the width of the intervals
STORED = {
    "frequency": (), "soft_frequency": ("weights",), "ean": ("norms",), "ean_mean": ("norms",),
    "reap": ("weights", "norms"), "max_activation": ("maxima",),
}  # fmt: skip
READ = {"easy_ep": "hidden", "mone_variance": "moments", "mone": "moments"}  # what no stored sum has
CRITERIA = {
    "frequency": "how many tokens chose it",
    "soft_frequency": "sum of its weights",
    "ean": "sum of its output norms",
    "ean_mean": "mean output norm",
    "reap": "mean of weight × output norm",
    "max_activation": "largest output component",
    "easy_ep": "weight × norm × how far the block turned the residual stream",
    "mone_variance": "spread of its outputs",
    "mone": "spread of its outputs × mean weight",
}


def render(here: Here) -> None:
    ui.heading(
        here.where,
        "Experts",
        "One expert at a time: what it goes with, where it fires, how much of the work it does, and what it is worth.",
    )
    load = data.load(here.trace, here.run_id)
    if not load["count"].any():
        ui.nothing_yet(here.recording)
        return
    layer, expert = _pick(here, load)
    if not load.loc[load["layer"] == layer, "count"].any():
        ui.note(f"Layer {layer} holds no routing in this run. Choose another one.")
        return
    _card(here, load, layer, expert)
    _labels(here, layer, expert)
    _tokens(here, layer, expert)
    _contexts(here, layer, expert)
    _others(here, layer, expert)
    _importance(here, layer, expert)


def _pick(here: Here, load: pd.DataFrame) -> tuple[int, int]:
    left, right, _ = st.columns([0.2, 0.4, 0.4])
    layers = [int(layer) for layer in here.layers["layer"]]
    with left:
        layer = state.pick("Layer", "layer", layers, default=layers[len(layers) // 2], clears=("expert",))
    mine = load[load["layer"] == layer].set_index("expert")
    busiest = int(mine["count"].idxmax())
    with right:
        shown = lambda e: f"{e} · {number(mine['ratio'].get(e))} × the uniform load"  # noqa: E731
        expert = state.pick("Expert", "expert", [int(e) for e in mine.index], default=busiest, shown=shown)
    return layer, expert


def _card(here: Here, load: pd.DataFrame, layer: int, expert: int) -> None:
    mine = load[load["layer"] == layer].set_index("expert")
    place = int(mine["count"].rank(ascending=False, method="min")[expert])
    totals = data.ask(here.trace, "expert_totals", here.run_id)
    totals = totals[totals["layer"] == layer].set_index("expert").reindex(mine.index)
    row = totals.loc[expert]
    n = float(row["n_tokens"]) if row["n_tokens"] == row["n_tokens"] else 0.0
    color = expert_color(expert, len(mine))
    swatch = f'<i class="rw-swatch" style="background:{color}"></i>'
    actions = " ".join(
        [
            cells.button("steering", "Try without it", spec=f"ban:layer={layer},expert={expert}"),
            cells.button("tokens", "Where it fires in the text", layer=layer, expert=expert),
        ]
    )
    ui.html(f'<div class="rw-card-head">{swatch}<h2>Layer {layer} · expert {expert}</h2><span>{actions}</span></div>')
    weight, norm = _mean(totals, "sum_weight", "n_tokens"), _mean(totals, "sum_norm", "n_norm")
    ui.tiles(
        [
            ("Load", f"{number(mine['ratio'][expert])}×", f"the uniform one · {_place(place, len(mine))} in its layer"),
            ("Tokens", count(n), f"{percent(_part(n, _tokens_of(here, layer)))} of all in the layer"),
            ("Ranked first", percent(_part(row["n_first"], n)), "of the tokens that chose it"),
            ("Weight", number(weight[expert]), f"mean · middle expert {number(weight.median())}"),
            ("Output norm", number(norm[expert]), f"mean · middle expert {number(norm.median())}"),
            ("Largest output", number(_float(row["max_abs_output"])), "largest |component| of its outputs"),
        ]
    )


def _mean(totals: pd.DataFrame, total: str, n: str) -> pd.Series:
    known = (totals[n] > 0) & (totals[total] != 0)
    return (totals[total] / totals[n].where(known)).astype(float)


def _tokens_of(here: Here, layer: int) -> float:
    totals = data.ask(here.trace, "layer_totals", here.run_id)
    return float(totals.set_index("layer")["n_tokens"].get(layer, 0))


def _place(place: int, of: int) -> str:
    return f"{place} of {of}"


def _labels(here: Here, layer: int, expert: int) -> None:
    if data.ask(here.trace, "labels", here.run_id).empty:
        return
    table, sample = data.analysis(here.trace, here.run_id, "npmi", layers=(layer,), ci=True, most_rows=LABEL_ROWS)
    frame = table[(table["expert"] == expert) & table["npmi"].notna()]
    frame = frame[frame["target"].isin(largest_labels(frame))].sort_values("npmi", ascending=False, kind="stable")
    if frame.empty:
        return
    frame = frame.rename(columns={"target": "name", "npmi": "value", "ci_low": "low", "ci_high": "high"})
    frame["low"] = frame["low"].clip(lower=-1)
    frame["sure"] = ~((frame["low"] <= 0) & (frame["high"] >= 0))
    frame["hover"] = [_label_hover(row) for row in frame.itertuples()]
    says = words.expert_labels(frame, expert)
    ui.section("Which labels does it go with?", says)
    ui.chart_block(
        data.once(charts.contrast_bars, frame, ui.theme(), name="nPMI"),
        name="expert-labels",
        alt=f"Bars of nPMI by label. {says}",
        meanings=[
            ("nPMI", "= how much more often label and expert come together than by chance: 0 is chance, 1 always."),
            ("Lines", "= 95 % intervals, bootstrap over sequences; pale where they hold 0."),
            ("n", f"= {plural(frame['n_tokens'].max(), 'token')}, {words.sample(sample)}."),
        ],
        rows=frame.drop(columns=["hover", "sure"]),
    )


def _label_hover(row: Any) -> str:
    interval = f"nPMI {number(row.value)} [{number(row.low)}, {number(row.high)}]"
    return f"<b>{charts.plain(row.name)}</b><br>{interval}<br>{count(row.n_xy)} of its {plural(row.n_x, 'token')}"


def _tokens(here: Here, layer: int, expert: int) -> None:
    sequences, _ = _drawn(here)
    frame = _scored(here.trace, here.run_id, layer, expert, tuple(sequences))
    if frame is None:
        return
    ui.section("Which tokens does it go with?", words.expert_tokens(frame))
    if frame.empty:
        return
    rows = [
        [
            cells.token_of(row),
            f"{number(row.npmi)}",
            NOTHING if row.low != row.low else f"{number(row.low)} to {number(row.high)}",
            cells.bar(row.npmi, wide=True),
            percent(row.chosen / row.n),
            count(row.n),
        ]
        for row in frame.itertuples()
    ]
    left, right = st.columns([0.74, 0.26], gap="medium")
    with left:
        ui.html(cells.table(["token", "#nPMI", "#95 % interval", "", "#of its occurrences", "#occurrences"], rows))
    with right:
        ui.definition(
            [
                ("nPMI", "= of token and expert, over all positions of the layer; the expert in any rank."),
                (
                    "Interval",
                    f"= bootstrap over sequences, interval width estimated from {_of_sequences(here, sequences)}. The "
                    "list holds the largest of many: top values are somewhat inflated by selection.",
                ),
                ("n", f"= {plural(int(frame['total'].iloc[0]), 'token')}, all with routing in the layer."),
            ]
        )
        ui.data_buttons("expert-tokens", frame.assign(token=[visible_or_none(text) for text in frame["token"]]))


@st.cache_data(show_spinner=False, max_entries=64)
def _scored(
    trace: data.TraceFile, run_id: int, layer: int, expert: int, sequences: tuple[int, ...]
) -> pd.DataFrame | None:
    """The tokens that go most with the expert; None where the trace does not say which token is where."""
    totals = data.ask(trace, "token_totals", run_id, layer, expert)
    if totals["token"].isna().all() and totals["token_id"].isna().all():
        return None
    counts = data.ask(trace, "token_counts", run_id, layer, expert, sequences)
    return token_scores(counts, totals, int(data.open_file(trace).run(run_id)["n_sequences"]))


def visible_or_none(text: Any) -> str | None:
    """The token's text with marks, for a table of rows."""
    return visible(text) if isinstance(text, str) else None


def _contexts(here: Here, layer: int, expert: int) -> None:
    found = data.ask(here.trace, "contexts", here.run_id, layer, expert, None, AROUND, CONTEXTS)
    ui.section("Where does it fire hardest?", "" if len(found) else "It was never chosen.")
    if found.empty:
        return
    rows = [
        [
            cells.context(list(row.tokens), int(row.position) - int(row.first)),
            number(_float(row.weight)),
            str(int(row.rank)),
            row.label if isinstance(row.label, str) else NOTHING,
            cells.link("tokens", f"{row.sequence_id} · {row.position}", layer=layer, expert=expert,
                       sequence=row.sequence_id, token=row.position),
        ]
        for row in found.itertuples()
    ]  # fmt: skip
    ui.html(cells.table(["in context", "#weight", "#rank", "label", "sequence · position"], rows))
    ui.quiet(
        f"The heaviest token of each sequence, the {plural(len(found), 'sequence')} with the heaviest of all "
        f"{plural(here.run['n_sequences'], 'sequence')} ({plural(here.run['n_tokens'], 'token')})."
    )


def _others(here: Here, layer: int, expert: int) -> None:
    experts = int(here.layers.set_index("layer")["num_experts"].loc[layer])
    left, right = st.columns(2, gap="large")
    with left:
        _partners(here, layer, expert, experts)
    with right:
        _alike(here, layer, expert, experts)


def _partners(here: Here, layer: int, expert: int, experts: int) -> None:
    if int(here.layers.set_index("layer")["top_k"].loc[layer]) < 2:
        ui.section("Chosen together with", "One expert per token: it is always alone.")
        return
    table, sample = data.analysis(here.trace, here.run_id, "coactivation", layers=(layer,))
    mine = table[(table["expert"] == expert) & (table["n_ij"] > 0)]
    mine = mine.sort_values("npmi_distinct", ascending=False, kind="stable")
    ui.section("Chosen together with", words.partners(mine))
    rows = [
        [
            *(cells.expert(layer, int(r.other), experts), percent(r.conditional)),
            *(f"{number(r.lift_distinct)}×", number(r.npmi_distinct)),
        ]
        for r in mine.head(PARTNERS).itertuples()
    ]
    ui.html(cells.table(["partner", "#of its tokens", "#against chance", "#nPMI"], rows))
    ui.quiet(
        f"Of its tokens: the share that also choose the partner. {words.sample(sample).capitalize()}. Chance: "
        f"{words.CHANCE_OF_PAIRS}"
    )


def _alike(here: Here, layer: int, expert: int, experts: int) -> None:
    rows, profiles = _profiles(here.trace, here.run_id, layer, tuple(_drawn(here)[0]))
    found = alike(rows, profiles, expert)
    outputs = _output_similarity(here, layer, expert)
    says = words.alike(found)
    ui.section("Most similar experts", says)
    if found.empty:
        return
    head = ["expert", "#same tokens", *(["#same output"] if outputs is not None else [])]
    rows_ = []
    for r in found.head(PARTNERS).itertuples():
        row = [cells.expert(layer, int(r.expert), experts), number(r.similarity)]
        rows_.append([*row, number(_float(outputs.get(int(r.expert))))] if outputs is not None else row)
    ui.html(cells.table(head, rows_))
    more = " Same output: cosine of the mean outputs." if outputs is not None else ""
    ui.quiet(f"Same tokens: how far the shares of the tokens they take overlap (Bhattacharyya), 1 = the same.{more}")


@st.cache_data(show_spinner=False, max_entries=16)
def _profiles(
    trace: data.TraceFile, run_id: int, layer: int, sequences: tuple[int, ...]
) -> tuple[pd.DataFrame, np.ndarray]:
    return atlas.experts(data.open_file(trace), run_id, list(sequences), [layer])


def _output_similarity(here: Here, layer: int, expert: int) -> pd.Series | None:
    if not data.ask(here.trace, "recorded", here.run_id)["moments"]:
        return None
    table, _ = data.analysis(here.trace, here.run_id, "expert_similarity", layers=(layer,), most_rows=1)
    return table[table["expert"] == expert].set_index("other")["similarity"]


def _importance(here: Here, layer: int, expert: int) -> None:
    has = data.ask(here.trace, "recorded", here.run_id)
    stored = tuple(name for name, needs in STORED.items() if all(has[kind] for kind in needs))
    parts = [data.analysis(here.trace, here.run_id, "expert_importance", layers=(layer,), criterion=stored)]
    for name in (name for name, needs in READ.items() if has[needs]):
        try:
            parts.append(
                data.analysis(here.trace, here.run_id, "expert_importance", layers=(layer,), criterion=(name,))
            )
        except ProbeError:
            continue  # the run has some of what it needs and lacks the rest
    table = pd.concat([part.table for part in parts], ignore_index=True)
    mine = table[table["expert"] == expert]
    experts = int(here.layers.set_index("layer")["num_experts"].loc[layer])
    ui.section("What is it worth?", words.importance(mine, experts))
    rows = [
        [
            r.criterion,
            CRITERIA[str(r.criterion)],
            number(_float(r.importance)),
            f"{r.rank} of {experts}",
            cells.bar((experts - r.rank + 1) / experts, wide=True),
        ]
        for r in mine.itertuples()
    ]
    left, right = st.columns([0.74, 0.26], gap="medium")
    with left:
        ui.html(cells.table(["criterion", "what it measures", "#value", "#rank in the layer", ""], rows))
    with right:
        ui.definition(
            [
                ("Rank", "1 = the most important expert of the layer by this criterion; a full bar."),
                ("Careful:", "criteria say what is used or large, not what is missed: try without it to see that."),
                ("n", f"= {plural(mine['n_tokens'].max(), 'token')}, {words.sample(parts[0].sample)}."),
            ]
        )
        ui.data_buttons("importance", mine)


def _drawn(here: Here) -> tuple[list[int], int]:
    return data.drawn(here.trace, here.run_id, SAMPLE_TOKENS * len(here.layers))


def _of_sequences(here: Here, sequences: list[int]) -> str:
    total = int(here.run["n_sequences"])
    if len(sequences) >= total:
        return f"all {plural(total, 'sequence')}"
    return f"{count(len(sequences))} of {plural(total, 'sequence')}, drawn evenly"


def _part(a: Any, b: float) -> float:
    return float(a) / b if b and a == a else float("nan")


def _float(value: Any) -> float:
    return float("nan") if value is None or value is pd.NA or value != value else float(value)
