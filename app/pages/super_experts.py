"""Super experts: whose outputs dwarf all others', by the published rule, and the tokens that set them off."""

from __future__ import annotations

import shlex
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from app import charts, data, ui, words
from app.components import cells
from app.components.copyable import copyable
from app.formats import NOTHING, count, number, percent, plural
from app.pages import Here, Page

PAGE = Page(
    name="super_experts", title="Super experts", icon=":material/bolt:", section="Analyse", order=3, charts=True
)
AROUND = 6
LISTED = 12  # of the largest, super or not
SINKS = 12
EVERY = 10**15  # rows: a largest value is of all tokens
DEPTH = 0.75  # share of the model's layers that the rule looks at


def render(here: Here) -> None:
    ui.heading(
        here.where,
        "Super experts",
        "A few experts produce much larger activations than all others, often on uninformative tokens; "
        "removing them breaks some models.",
    )
    if not data.load(here.trace, here.run_id)["count"].any():
        ui.nothing_yet(here.recording)
        return
    table = _maxima(here.trace, here.run_id)
    if table is None:
        ui.note("The largest outputs of the experts were not recorded: probe record … --capture norms")
        return
    _strip(here, table)
    _listed(here, table)
    _sinks(here, table)
    _massive(here)


@st.cache_data(show_spinner=False, max_entries=16)
def _maxima(trace: data.TraceFile, run_id: int) -> pd.DataFrame | None:
    """The metric's table from the stored maxima, with the tokens that made them."""
    from probes.findings.stored import Stored, stored_maxima

    opened = data.open_file(trace)
    table = stored_maxima(Stored(opened, run_id))
    if table is None:
        return None
    table = table[table["kind"] == "routed"].drop(columns=["token", "massive_activation_ratio", "missing_share"])
    known = table.dropna(subset=["sequence_id", "position"])
    places = data.ask(
        trace, "places", run_id, tuple(known["sequence_id"].astype(int)), tuple(known["position"].astype(int)), AROUND
    )
    places = places.astype({"sequence_id": "Int64", "position": "Int64"})
    return table.merge(places, on=["sequence_id", "position"], how="left")


def _strip(here: Here, table: pd.DataFrame) -> None:
    known = table[table["max_abs_output"] > 0].copy()
    known["hover"] = [_hover(row) for row in known.itertuples()]
    says = words.super_experts(known)
    ui.section("Whose outputs dwarf the others'?", says)
    if known.empty:
        return
    depth = here.run.get("num_layers")
    scope = round(DEPTH * int(depth if depth == depth and depth else known["layer"].max() + 1))
    meanings = [
        ("Largest output", "= max |component| of an expert's output before weighting, over all tokens routed to it."),
        ("Super", "= above both lines: the 99.5th percentile and a tenth of the largest, over the first three quarters "
                  "of the layers (arXiv 2507.23279)."),
        ("Careful:", "the rule nearly always names somebody. Look how far above the rest they stand."),
        ("n", f"= {plural(known['n_tokens'].max(), 'token')} per layer, all of them; a maximum has no interval."),
    ]  # fmt: skip
    drawn = known.drop(columns=["tokens", "first"])
    rows = drawn.drop(columns=["hover"])
    ui.chart_block(
        data.once(charts.maxima_strip, drawn, ui.theme(), scope=scope),
        name="maxima", alt=f"Points of every expert's largest output by layer, on a log scale. {says}",
        meanings=meanings, rows=rows,
    )  # fmt: skip
    ui.chart_block(
        data.once(charts.maxima_heatmap, drawn, ui.theme()),
        name="maxima-map", alt=f"Heat-map of the largest output by layer and expert, on a log scale. {says}",
        meanings=[("The same", "by number. Expert 3 of one layer has nothing to do with expert 3 of the next.")],
        rows=rows[["layer", "expert", "max_abs_output", "max_abs_input", "is_super"]],
    )  # fmt: skip


def _hover(row: Any) -> str:
    text = cells.plain_token(row)
    token = f"<br>by {charts.plain(text)}, sequence {row.sequence_id}, position {row.position}" if text else ""
    return f"<b>Layer {row.layer} · expert {row.expert}</b><br>largest output {number(row.max_abs_output)}{token}"


def _listed(here: Here, table: pd.DataFrame) -> None:
    known = table.dropna(subset=["max_abs_output"]).sort_values("max_abs_output", ascending=False, kind="stable")
    found = known[known["is_super"].astype(bool)]
    shown = pd.concat([found, known[~known["is_super"].astype(bool)]]).head(max(LISTED, len(found)))
    ui.section("Which are they, and which token did it?", words.who_did_it(found if len(found) else known.head(1)))
    experts = here.layers.set_index("layer")["num_experts"]
    median = float(known["max_abs_output"].median())
    rows = [_row(row, int(experts[row.layer]), median) for row in shown.itertuples()]
    ui.html(
        cells.table(
            [
                "layer·expert",
                "",
                "#largest output",
                "#× the middle expert",
                "#largest input",
                "token that did it",
                "sequence · position",
                "",
            ],
            rows,
        )
    )
    if len(found):
        spec = "ban:expert=" + "+".join(f"{r.layer}.{r.expert}" for r in found.itertuples())
        say = f"Ban {'it' if len(found) == 1 else f'all {len(found)}'} and see"
        ui.html(f"<p>{cells.button('steering', say, spec=spec)}</p>")
        command = f"probe steer {shlex.quote(str(here.run['model']))} --prompt TEXT --intervention {spec}"
        copyable(command, "super_experts_command")


def _row(row: Any, experts: int, median: float) -> list[Any]:
    placed = row.sequence_id is not None and row.sequence_id is not pd.NA and isinstance(row.tokens, list | np.ndarray)
    where = cells.link("tokens", f"{row.sequence_id} · {row.position}", layer=row.layer, expert=row.expert,
                       sequence=row.sequence_id, token=row.position) if placed else NOTHING  # fmt: skip
    return [
        cells.expert(row.layer, row.expert, experts),
        cells.Safe('<b class="rw-super">super</b>') if row.is_super else "",
        number(row.max_abs_output),
        f"{number(row.max_abs_output / median)}×" if median else NOTHING,
        number(row.max_abs_input),
        cells.context(list(row.tokens), int(row.position) - int(row.first)) if placed else NOTHING,
        where,
        cells.link("steering", "ban", spec=f"ban:layer={row.layer},expert={row.expert}"),
    ]


def _sinks(here: Here, table: pd.DataFrame) -> None:
    """The tokens at which most experts have their largest output: where attention and activations sink."""
    known = table.dropna(subset=["position", "max_abs_output"])
    if known.empty or (known["token"].isna() & known["token_id"].isna()).all():
        return
    key = known["token"].where(known["token"].notna(), known["token_id"].astype(str))
    grouped = known.assign(key=key, at_start=known["position"] == 0).groupby("key", sort=False)
    sinks = grouped.agg(
        token=("token", "first"), token_id=("token_id", "first"), n=("expert", "size"), at_start=("at_start", "mean"),
        largest=("max_abs_output", "max"), layers=("layer", "nunique"),
    ).sort_values(["n", "largest"], ascending=False, kind="stable")  # fmt: skip
    ui.section("At which tokens do outputs peak?", words.sinks(sinks, len(known)))
    rows = [
        [cells.token_of(row), count(row.n), cells.bar(row.n / len(known), wide=True),
         count(row.layers), percent(row.at_start), number(row.largest)]
        for row in sinks.head(SINKS).itertuples()
    ]  # fmt: skip
    left, right = st.columns([0.74, 0.26], gap="medium")
    with left:
        ui.html(
            cells.table(
                ["token", "#experts", "", "#layers", "#at the start", "#largest"],
                rows,
            )
        )
    with right:
        ui.definition([
            ("Experts", "= those whose output was largest in the whole run at this token, and in how many layers."),
            ("Sink", "= a token that draws many peaks and says little: the first one, a line end, a full stop."),
            ("n", f"= {plural(len(known), 'expert')} with a known maximum."),
        ])  # fmt: skip
        ui.data_buttons("sinks", sinks.reset_index(drop=True))


def _massive(here: Here) -> None:
    """How far the residual stream's largest component stands above its middle one, where that was recorded."""
    if not data.ask(here.trace, "recorded", here.run_id)["hidden"]:
        return
    table, sample = data.analysis(here.trace, here.run_id, "super_experts", kind=("routed",), most_rows=EVERY)
    ratio = table.groupby("layer", as_index=False).agg(value=("massive_activation_ratio", "max"), n=("n_tokens", "max"))
    ratio = ratio.dropna(subset=["value"]).assign(low=np.nan, high=np.nan)
    if ratio.empty:
        return
    says = words.curve(ratio, "the largest activation over the median")
    ui.section("Are there massive activations?", says)
    ui.chart_block(
        data.once(charts.layer_curve, ratio, ui.theme(), name="max |h| ÷ median |h|"),
        name="massive", alt=f"Curve of the massive-activation ratio by layer. {says}",
        meanings=[
            ("h", "= the residual stream before the experts; the largest ratio over the layer's tokens."),
            ("n", f"= {plural(ratio['n'].max(), 'token')} per layer, {words.sample(sample)}."),
        ],
        rows=ratio.drop(columns=["low", "high"]),
    )  # fmt: skip
