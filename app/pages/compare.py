"""Compare: two runs side by side: base and instruct, before and after, plain and steered."""

from __future__ import annotations

from html import escape
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import streamlit as st

from app import charts, data, served, state, ui, words
from app.components.token_text import legible
from app.formats import count, date, number, percent, plural
from app.pages import Here, Page
from app.tables.intervals import FEWEST
from probes.comparison import Comparison, compare, most_changed
from probes.errors import ProbeError
from probes.metrics.chance import shared_choices
from store.errors import TraceError

PAGE = Page(name="compare", title="Compare", icon=":material/compare:", section="Change", order=2)
LISTED = 12
BALANCE = {
    "cv": ("cv", "coefficient of variation of the experts' counts: 0 = all equal"),
    "max ÷ mean": ("max_over_mean", "busiest expert over the mean, all tokens of a run as one batch: 1 = all equal"),
}


class Other(NamedTuple):
    """A run to compare with, and how it is called in the address and on the page."""

    trace: data.TraceFile
    run: dict[str, Any]
    key: str
    name: str


def render(here: Here) -> None:
    ui.heading(
        here.where,
        "Compare",
        "Two runs of one architecture side by side: another checkpoint, other text, or the same with its routing "
        "changed.",
    )
    others = _others(here)
    if not others:
        ui.note(
            "There is no other run to compare with. Record one more into this trace, or open two traces: "
            "probe app BEFORE AFTER"
        )
        return
    names = {other.key: other for other in others}
    default = _baseline(here, others)
    key = state.pick("Compare with", "with", list(names), default=default, shown=lambda key: names[key].name)
    other = names[key]
    try:
        # The other run comes first: what is said is how this one differs from it.
        found = _compared(other.trace, int(other.run["run_id"]), here.trace, here.run_id)
    except (ProbeError, TraceError) as error:
        ui.problem(str(error))
        return
    called = (f"the other ({legible(other.run['name'])})", f"this run ({legible(here.run['name'])})")
    agreement = _agreement(here.trace, here.run_id, other.trace, int(other.run["run_id"]))
    _tiles(found, agreement)
    _load(found)
    _same_experts(here, other, agreement)
    _surer(found, called)
    _evenness(found, called)
    _list(found)


def _others(here: Here) -> list[Other]:
    """Every other run of every trace that is served, the newest of this trace first."""
    paths = served.traces()
    found = []
    for path in sorted(paths, key=lambda path: path != here.trace.path):
        try:
            trace = data.identify(path)
            runs = data.runs(trace).to_dict("records")
        except (TraceError, FileNotFoundError):
            continue
        short = served.short(path, paths)
        for run in runs:
            if (path, int(run["run_id"])) != (here.trace.path, here.run_id):
                key = f"{run['run_id']} of {short}"
                changed = ", routing changed" if _given(run.get("intervention")) else ""
                says = f"{short} · run {run['run_id']} · {legible(run['name'])}{changed} · {date(run['created_at'])}"
                found.append(Other(trace, run, key, f"{says} · {count(run['n_tokens'])} tokens"))
    return found


def _baseline(here: Here, others: list[Other]) -> str:
    """What this run was made to be compared with, if it says so; else the first of the others."""
    baseline = here.run.get("baseline_run_id")
    own = [o for o in others if o.trace.path == here.trace.path and _given(baseline) and o.run["run_id"] == baseline]
    return (own or others)[0].key


@st.cache_data(show_spinner="Comparing …", max_entries=32)
def _compared(before: data.TraceFile, run_before: int, after: data.TraceFile, run_after: int) -> Comparison:
    return compare(data.open_file(before), data.open_file(after), run_before, run_after, agreement=False)


@st.cache_data(show_spinner="Reading a sample of both runs …", max_entries=32)
def _agreement(trace: data.TraceFile, run_id: int, other: data.TraceFile, other_run: int) -> Any:
    """The agreement over the same drawn sequences of both, or why there is none."""
    from probes.sampling import sampled

    first = data.open_file(trace)
    pair = {"against": other_run, "against_trace": data.open_file(other)}
    try:
        return sampled(first, "router_saturation", run_id, ci=first.run(run_id)["n_sequences"] >= FEWEST, **pair)
    except ProbeError as error:
        return str(error)


def _tiles(found: Comparison, agreement: Any) -> None:
    layers, experts = found.layers, found.experts
    entropy = (layers["entropy_b"] - layers["entropy_a"]).mean()
    doubled = int(((experts["factor"] >= 2) | (experts["factor"] <= 0.5)).sum())
    same = None if isinstance(agreement, str) else agreement.table["saturation"].mean()
    farthest = layers.loc[layers["js_bits"].idxmax()] if layers["js_bits"].notna().any() else None
    ui.tiles(
        [
            ("Load moved", percent(_moved(experts)), "of the assignments, mean over layers"),
            ("Farthest", "–" if farthest is None else f"layer {int(farthest['layer'])}", _bits(farthest)),
            ("Doubled or halved", count(doubled), f"of {plural(len(experts), 'expert')}"),
            ("Same choice", percent(same), "of the chosen experts" if same is not None else "other tokens"),
            ("Entropy", "–" if entropy != entropy else f"{entropy:+.3f}", "÷ ln E, mean over layers"),
            ("Tokens", count(found.b["n_tokens"]), f"{count(found.a['n_tokens'])} in the other"),
        ]
    )


def _moved(experts: pd.DataFrame) -> float:
    """Share of the assignments that would have to move for one load to become the other (total variation)."""
    known = experts.dropna(subset=["difference"])
    return float(known["difference"].abs().groupby(known["layer"]).sum().mean() / 2)


def _bits(row: Any) -> str:
    return "nothing recorded" if row is None else f"{number(row['js_bits'])} bits apart"


def _load(found: Comparison) -> None:
    top = most_changed(found.experts, 1)
    says = "No expert's share of the load changed."
    if len(top):
        row = top.iloc[0]
        grew = "grew" if row["difference"] > 0 else "shrank"
        says = (
            f"Expert {int(row['expert'])} of layer {int(row['layer'])} {grew} most: from {percent(row['share_a'])} to "
            f"{percent(row['share_b'])} of its layer's load."
        )
    ui.section("Where does the load move?", says)
    ui.chart_block(
        data.once(charts.difference_heatmap, found.experts, ui.theme()),
        name="moved",
        alt=f"Heat-map of the change of load by layer and expert. {says}",
        meanings=[
            ("A fair share", "= what an expert would have if all had the same. +1 = one such share more in this "
             "run than in the other, −1 = one less."),
            ("Load moved", "= the part of the assignments that would have to change experts for one load to become the "
             "other. Some of it is chance: other text moves the load too."),
            ("n", f"= {plural(found.b['n_tokens'], 'token')} here, {count(found.a['n_tokens'])} in the other."),
        ],
        rows=found.experts,
    )  # fmt: skip


def _by_chance(here: Here, other: Other) -> float:
    """Mean over layers of the share of experts that two runs with these loads share by chance."""
    loads = [data.load(here.trace, here.run_id), data.load(other.trace, int(other.run["run_id"]))]
    a, b = (load.pivot(index="layer", columns="expert", values="share") for load in loads)
    a, b = a.align(b, join="inner")
    k = here.layers.set_index("layer")["top_k"].reindex(a.index).to_numpy(float)[:, None]
    return float(np.nanmean(shared_choices(k * a.to_numpy(), k * b.to_numpy())))


def _same_experts(here: Here, other: Other, agreement: Any) -> None:
    title = "Does a token choose the same experts?"
    if isinstance(agreement, str):
        ui.section(title)
        ui.note(agreement)
        return
    table = agreement.table
    curve = pd.DataFrame({"layer": table["layer"].astype(int), "value": table["saturation"], "n": table["n_tokens"]})
    for end in ("low", "high"):
        curve[end] = table.get(f"ci_{end}", pd.Series(np.nan, table.index))
    says = words.curve(curve, "the share of a token's experts that both runs choose")
    chance, even = _by_chance(here, other), (here.layers["top_k"] / here.layers["num_experts"]).mean()
    ui.section(title, says)
    command = (
        f"probe compare {other.trace.quoted} {here.trace.quoted} --run {other.run['run_id']} --against {here.run_id}"
    )
    ui.chart_block(
        data.once(charts.layer_curve, curve, ui.theme(), name="saturation", reference=(chance, "by chance"), top=1.0),
        name="saturation",
        alt=f"Curve of router saturation by layer. {says}",
        meanings=[
            ("Saturation", "= of the k experts a token chooses, the share that it chooses in the other run too "
             "(OLMoE). 1 − saturation is the rate of change."),
            ("By chance", f"= {percent(chance)}, mean over layers: two runs with these loads that know "
             f"nothing of each other (k / E = {percent(even)} where all experts "
             "are as busy)."),
            ("n", f"= {plural(table['n_tokens'].max(), 'token')} of both, {words.sample(agreement.sample, command)}."),
        ],
        rows=table,
    )  # fmt: skip


def _surer(found: Comparison, called: tuple[str, str]) -> None:
    title = "Are the routers surer?"
    frame = _pair(found, "entropy")
    if frame[["a", "b"]].isna().all().any():
        ui.section(title)
        ui.note(found.notes[0] if found.notes else "Entropy needs router logits of both runs.")
        return
    says = _pair_words(frame, "mean routing entropy")
    ui.section(title, says)
    ui.chart_block(
        data.once(charts.pair_curves, frame, ui.theme(), name="entropy ÷ ln E", names=called, top=1.0),
        name="entropies",
        alt=f"Curves of mean routing entropy by layer in both runs. {says}",
        meanings=[
            ("Entropy", "of the router's scores over all experts, as a share of the largest possible: 1 = all equally "
             "likely, 0 = one is certain."),
            ("No interval:", "the values are of all tokens of each run; the runs differ in their tokens too, where the "
             "text is not the same."),
        ],
        rows=found.layers[["layer", "entropy_a", "entropy_b", "margin_a", "margin_b", "n_tokens_a", "n_tokens_b"]],
    )  # fmt: skip


@ui.part
def _evenness(found: Comparison, called: tuple[str, str]) -> None:
    measure = state.one_of("balance", list(BALANCE))
    column, meaning = BALANCE[measure]
    frame = _pair(found, column)
    says = _pair_words(frame, meaning.split(":")[0])
    ui.section("Is the work spread more evenly?", says)
    state.pick("Measure", "balance", list(BALANCE), kind="segmented", label_visibility="collapsed")
    ui.chart_block(
        data.once(charts.pair_curves, frame, ui.theme(), name=measure, names=called),
        name="balances",
        alt=f"Curves of load balance by layer in both runs. {says}",
        meanings=[(measure, f"= {meaning}.")],
        rows=found.layers[["layer", f"{column}_a", f"{column}_b", "dead_a", "dead_b", "l2", "js_bits"]],
    )


def _pair(found: Comparison, column: str) -> pd.DataFrame:
    named = {f"{column}_a": "a", f"{column}_b": "b"}
    return found.layers[["layer", *named]].rename(columns=named)


def _pair_words(frame: pd.DataFrame, what: str) -> str:
    known = frame.dropna()
    if known.empty:
        return f"There is no {what} to show."
    change = known["b"] - known["a"]
    row = known.loc[change.abs().idxmax()]
    higher = int((change > 0).sum())
    return (
        f"The {what} is higher in this run in {higher} of {plural(len(known), 'layer')}; it differs most in layer "
        f"{int(row['layer'])}: {number(row['b'])} here, {number(row['a'])} in the other."
    )


def _list(found: Comparison) -> None:
    top = most_changed(found.experts, LISTED)
    if top.empty:
        return
    ui.section("Which experts changed most?")
    ui.html(_table(top))
    ui.data_buttons("changed", most_changed(found.experts, len(found.experts)))


def _table(top: pd.DataFrame) -> str:
    head = "".join(f"<th>{name}</th>" for name in ("layer", "expert", "load in the other run", "load here", "factor"))
    rows = "".join(
        f"<tr><td>{int(row.layer)}</td><td>{_expert(row)}</td><td>{percent(row.share_a)}</td>"
        f"<td>{percent(row.share_b)}</td><td>{escape(_factor(row.factor))}</td></tr>"
        for row in top.itertuples()
    )
    return f'<div class="rw-through"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _expert(row: Any) -> str:
    return ui.link("experts", f"expert {int(row.expert)}", layer=int(row.layer), expert=int(row.expert))


def _factor(factor: float) -> str:
    return "new" if factor != factor else f"{number(factor)} ×"


def _given(value: Any) -> bool:
    return value is not None and value is not pd.NA and value == value and value not in ("", "null")
