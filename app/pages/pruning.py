"""Pruning: which experts matter, by every criterion the trace can answer; what a share of them would keep."""

from __future__ import annotations

import shlex
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from app import charts, data, state, ui, words
from app.components.copyable import copyable
from app.formats import count, number, percent, plural
from app.pages import Here, Page
from app.tables import pruned, pruning
from probes.errors import UsageError
from probes.metrics.expert_importance import NEEDS

PAGE = Page(name="pruning", title="Pruning", icon=":material/content_cut:", section="Change", order=0, charts=True)
NAMES = {
    "frequency": ("frequency", "= how many tokens chose the expert"),
    "soft_frequency": ("soft frequency", "= the sum of its routing weights"),
    "ean": ("EAN", "= the sum of the norms of its outputs"),
    "ean_mean": ("mean norm", "= the mean norm of its outputs over the tokens that chose it"),
    "reap": ("REAP", "= the mean of weight × norm over the tokens that chose it"),
    "easy_ep": ("EASY-EP", "= the sum of weight × norm × how far the block turned the residual stream"),
    "mone_variance": ("output variance", "= how much its outputs vary over the run"),
    "mone": ("MoNE", "= spread of its outputs × its mean weight"),
    "max_activation": ("max activation", "= the largest component it ever gave"),
}
HOLDS = {"weights": "weights", "output_norm": "norms", "output_absmax": "maxima", "similarity": "similarity"}
RATIOS = np.linspace(0.05, 1, 20)
LISTED = 60


def render(here: Here) -> None:
    ui.heading(
        here.where,
        "Pruning",
        "If experts had to go, which? The criteria of the literature side by side, where they agree, and how much of "
        "the present load the kept experts carry.",
    )
    load = data.load(here.trace, here.run_id)
    if not load["count"].any():
        ui.nothing_yet(here.recording)
        return
    able = _able(data.ask(here.trace, "kept_outputs", here.run_id))
    chosen, ratio, scope = _questions(able)
    found = data.analysis_or_why(here.trace, here.run_id, "expert_importance", criterion=tuple(able))
    if isinstance(found, str):
        ui.note(found)
        return
    table = _with_load(found.table, load)
    keep = pruning.kept(table, ratio, scope)
    names = {name: NAMES[name][0] for name in able}
    n = f"= {plural(table['n_tokens'].max(), 'token')}, {words.sample(found.sample, _command(here, able, ratio))}."
    _importance(table, keep, chosen, ratio, scope, n)
    if len(able) > 1:
        _agreement(table, names, chosen, n)
    _kept(table, keep, names, chosen, ratio, scope, n)
    _unwanted(table, keep, ratio, here)
    _evaluated(here)
    _missing(able)


def _able(there: set[str]) -> list[str]:
    """The criteria the trace has everything for."""

    def has(needed: str) -> bool:
        return HOLDS.get(needed, "moments") in there

    return [name for name in NAMES if all(has(needed) for needed in NEEDS[name])]


def _questions(able: list[str]) -> tuple[str, float, str]:
    left, middle, right = st.columns([0.34, 0.22, 0.44])
    default = "reap" if "reap" in able else able[0]
    with left:
        chosen = state.pick("Criterion", "criterion", able, default=default, shown=lambda name: NAMES[name][0])
    with middle:
        ratio = state.amount("Share to keep", "keep", 0.5, low=0.05, high=1, step=0.05)
    with right:
        scope = state.pick("Ranked", "scope", list(pruning.SCOPES), kind="segmented")
    return chosen, ratio, scope


def _with_load(table: pd.DataFrame, load: pd.DataFrame) -> pd.DataFrame:
    """The importance with each expert's assignments; experts a layer does not have are left out."""
    joined = table.astype({"layer": int, "expert": int}).merge(
        load[["layer", "expert", "count"]], on=["layer", "expert"]
    )
    return joined.reset_index(drop=True)


def _command(here: Here, able: list[str], ratio: float) -> str:
    asked = " ".join(f"--criterion {name}" for name in able)
    return f"probe analyze expert_importance {here.trace.quoted} {asked} --keep {ratio:g}"


def _importance(table: pd.DataFrame, keep: pd.Series, chosen: str, ratio: float, scope: str, n: str) -> None:
    own = table.assign(keep=keep)[table["criterion"] == chosen]
    top, last = own.loc[own["rank"] == 1], own[~own["keep"].astype(bool)]
    name, meaning = NAMES[chosen]
    idle = int((own["count"] == 0).sum())
    says = (
        f"By {name}, keeping {percent(ratio)} {scope} drops {plural(len(last), 'expert')} of {count(len(own))}, which "
        f"carry {percent(last['count'].sum() / max(1, own['count'].sum()))} of the load now."
    )
    says += f" {plural(idle, 'expert')} {'was' if idle == 1 else 'were'} never chosen at all." if idle else ""
    ui.section("Which experts matter?", says)
    ui.chart_block(
        data.once(charts.importance_heatmap, own, ui.theme()),
        name="importance",
        alt=f"Heat-map of the place of each expert in its layer by {name}. {says} First in their layers are "
        + ", ".join(f"expert {int(row.expert)} of layer {int(row.layer)}" for row in top.head(5).itertuples()),
        meanings=[
            (f"{name[0].upper()}{name[1:]}", f"{meaning}."),
            ("Place", "= its rank within its layer: darkest is first in the light theme, brightest in the dark."),
            ("×", "= would be dropped."),
            ("n", n),
        ],
        rows=own,
    )


def _agreement(table: pd.DataFrame, names: dict[str, str], chosen: str, n: str) -> None:
    pairs = data.once(pruning.agreement, table)
    mean = pairs.groupby(["criterion", "other"], sort=False)["spearman"].mean().reset_index()
    apart = mean[(mean["criterion"] == chosen) & (mean["other"] != chosen)].dropna()
    says = "The criteria rank experts the same or say nothing."
    if len(apart):
        near, far = apart.loc[apart["spearman"].idxmax()], apart.loc[apart["spearman"].idxmin()]
        says = (
            f"{names[chosen][0].upper()}{names[chosen][1:]} ranks experts most like {names[near['other']]} (mean rank "
            f"correlation {near['spearman']:.2f}) and least like {names[far['other']]} "
            f"({far['spearman']:.2f})."
        )
    ui.section("Do the criteria agree?", says)
    ui.chart_block(
        data.once(charts.agreement_matrix, mean, ui.theme(), names=names),
        name="agreement",
        alt=f"Matrix of rank correlation between criteria. {says}",
        meanings=[
            ("Rank correlation", "= Spearman's, between the two rankings of a layer's experts, mean over layers: 1 = "
             "the same order, 0 = unrelated, −1 = reversed."),
            ("n", n),
        ],
        rows=pairs,
    )  # fmt: skip


def _kept(
    table: pd.DataFrame, keep: pd.Series, names: dict[str, str], chosen: str, ratio: float, scope: str, n: str
) -> None:
    curve = data.once(pruning.coverage, table, RATIOS, scope)
    at = pruning.per_layer(table, keep)
    own = at[at["criterion"] == chosen].sort_values("covered")
    low = own.iloc[0]
    says = (
        f"The experts that {names[chosen]} keeps carry {percent(own['covered'].mean())} of the present load, least in "
        f"layer {int(low['layer'])} ({percent(low['covered'])})."
    )
    common: dict[str, Any] = {"names": names, "chosen": chosen}
    ui.section("How much of the load would stay where it is?", says)
    ui.chart_block(
        data.once(charts.criteria_curves,
            curve, ui.theme(), x="ratio", y="covered", titles=("share of experts kept", "share of load covered"),
            reference=ratio, **common,
        ),
        name="covered",
        alt=f"Curves of the load covered over the share of experts kept. {says}",
        meanings=[
            ("Covered", "= of the present assignments, those to kept experts. The rest would have to go elsewhere; "
             "what that costs, only an evaluation says: probe eval."),
            ("n", n),
        ],
        rows=curve,
    )  # fmt: skip
    what = ("n_kept", "experts kept") if scope == pruning.SCOPES[1] else ("covered", "share of load covered")
    few = own.loc[own["n_kept"].idxmin()]
    if scope == pruning.SCOPES[1]:
        says = f"{names[chosen]} keeps fewest in layer {int(few['layer'])}: {plural(few['n_kept'], 'expert')}."
    ui.section("What would each layer keep?", says)
    ui.chart_block(
        data.once(charts.criteria_curves, at, ui.theme(), x="layer", y=what[0], titles=("layer", what[1]), **common),
        name="kept",
        alt=f"Curves by layer: {what[1]} for each criterion. {says}",
        meanings=[
            ("In each layer", "every layer keeps the same share of its experts."),
            ("Over the model", "all experts stand in one ranking, so that layers keep more or fewer; each keeps at "
             "least one."),
        ],
        rows=at,
    )  # fmt: skip


def _unwanted(table: pd.DataFrame, keep: pd.Series, ratio: float, here: Here) -> None:
    """What all criteria agree on."""
    found = data.once(pruning.votes, table, keep)
    criteria = int(found["n_criteria"].max())
    none, every = found[found["n_keep"] == 0], found[found["n_keep"] == found["n_criteria"]]
    says = (
        f"All {plural(criteria, 'criterion', 'criteria')} would drop {plural(len(none), 'expert')} and keep "
        f"{count(len(every))} of {count(len(found))}; about the others they differ."
        if criteria > 1
        else f"The one criterion there is drops {plural(len(none), 'expert')} of {count(len(found))}."
    )
    ui.section("What do all agree on?", says)
    shown = ", ".join(
        ui.link("experts", f"{int(r.layer)}·{int(r.expert)}", layer=int(r.layer), expert=int(r.expert))
        for r in none.head(LISTED).itertuples()
    )
    more = f" and {count(len(none) - LISTED)} more" if len(none) > LISTED else ""
    if shown:
        ui.html(f'<p class="rw-says">Dropped by all (layer·expert): {shown}{more}</p>')
    ui.data_buttons("votes", found)


@ui.part
def _evaluated(here: Here) -> None:
    """Curves that an evaluation measured, from its result."""
    ui.section(
        "What does it cost?",
        "Importance says who carries what; what is lost without the others, only an evaluation says. Its result, as "
        "--out wrote it, is drawn here.",
    )
    upload = st.file_uploader("Result of probe eval", type=["json"], key="pruning_result")
    if upload is None:
        arms = " ".join(f"--intervention expert_importance:criterion=reap,keep={keep}" for keep in (0.75, 0.5, 0.25))
        model = shlex.quote(str(here.run["model"]))
        copyable(
            f"probe eval {model} --tasks TASKS.jsonl --from {here.trace.quoted} {arms} --out pruning.json",
            "pruning_command",
        )
        return
    try:
        found = pruned.curves(upload.getvalue())
    except UsageError as error:
        ui.problem(str(error))
        return
    measures = found[["task", "measure"]].drop_duplicates().apply(tuple, axis=1).tolist()
    task, measure = state.pick("Measure", "measured", measures, shown=lambda pair: f"{pair[0]}: {pair[1]}")
    rows = found[(found["task"] == task) & (found["measure"] == measure)]
    best = rows.loc[rows["value"].idxmax()]
    says = (
        f"{len(rows)} measured points, n = {int(rows['n'].max())} items each; the highest value is "
        f"{number(best['value'])} ({best['criterion']}, {percent(best['keep'])} kept), the baseline "
        f"{number(best['baseline'])}."
    )
    ui.chart_block(
        data.once(charts.evaluated_curves, rows, ui.theme(), f"{measure} ({rows['unit'].iloc[0]})"),
        name="pruning-evaluated",
        alt=f"{measure} over the share of experts kept, one line per criterion. {says}",
        meanings=[
            ("Bars", "95 % intervals, bootstrap over items."),
            ("Random", "as many experts per layer, drawn at random: the mean of the controls."),
            ("Load-matched lists", "as many that take the same share of the tokens: their mean, over the criteria."),
            ("", says),
        ],
        rows=rows,
    )


def _missing(able: list[str]) -> None:
    left_out = [NAMES[name][0] for name in NAMES if name not in able]
    if left_out:
        ui.note(
            f"Not in this trace: what {', '.join(left_out)} would need. Record it with: "
            "probe record … --capture for=expert_importance"
        )
