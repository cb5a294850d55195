"""Overview: what was recorded, what stands out, who carries the load, how sure and how even the routers are."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import streamlit as st

from app import charts, data, state, ui, words
from app.components.copyable import copyable
from app.components.token_text import legible
from app.formats import NOTHING, count, date, number, percent, plural, short_count, size
from app.pages import Here, Page
from app.sections.batches import batches_section
from app.sections.findings import findings_section
from app.tables.curves import MEASURES, balance_curve, entropy_curve
from app.tables.intervals import FEWEST

PAGE = Page(name="overview", title="Overview", icon=":material/dashboard:", section="Look", order=0, charts=True)
SAMPLED = 128  # sequences read for the width of the intervals: enough to know the spread, read in a blink


def render(here: Here) -> None:
    _heading(here)
    load = data.load(here.trace, here.run_id)
    with st.container():  # one place, however much it holds: what stands below does not move when more is found
        if load["count"].any():
            findings_section(here)
    _tiles(here)
    if not load["count"].any():
        ui.nothing_yet(here.recording)
    else:
        totals = here.layers[["layer", "num_experts"]].merge(data.ask(here.trace, "layer_totals", here.run_id), "left")
        totals = totals.fillna(0)
        _load(here, load)
        _entropy(here, totals)
        _balance(here, load, totals)
        _coverage(here, totals)
    _provenance(here)


def _heading(here: Here) -> None:
    run = here.run
    badge = {"complete": ("complete", "good")}.get(run["status"], (str(run["status"]), "second"))
    experts, top_k = _range(here.layers["num_experts"]), _range(here.layers["top_k"])
    tokens, sequences = plural(run["n_tokens"] or 0, "token"), plural(run["n_sequences"] or 0, "sequence")
    layers = plural(len(here.layers), "layer")
    lead = f"{ui.strong(tokens)} in {ui.strong(sequences)}, each routed in {ui.strong(layers)} "
    lead += f"to {ui.strong(top_k)} of {ui.strong(experts)} experts."
    if run.get("intervention") not in (None, "", "null") and run["intervention"] == run["intervention"]:
        lead += f" Routing was changed: {ui.strong(_short(run['intervention']))}."
    ui.heading(here.where, legible(run["model"]), lead, badge)


def _tiles(here: Here) -> None:
    run = here.run
    n_tokens, n_sequences = run["n_tokens"] or 0, run["n_sequences"] or 0
    ui.tiles(
        [
            ("Tokens", short_count(n_tokens), f"{number(n_tokens / max(n_sequences, 1))} per sequence"),
            ("Sequences", short_count(n_sequences), date(run["created_at"]).split(",")[0]),
            ("MoE layers", count(len(here.layers)), f"numbered {_range(here.layers['layer'])}"),
            ("Experts", _range(here.layers["num_experts"]), _shared(here.layers)),
            ("Top-k", _range(here.layers["top_k"]), f"per token, {_gating(here.layers)}"),
            ("File", size(here.trace.n_bytes), f"{size(here.trace.n_bytes // max(n_tokens, 1))} per token"),
        ]
    )


def _load(here: Here, load: pd.DataFrame) -> None:
    says = words.load(load)
    ui.section("Who carries the load?", says)
    uniform = here.layers["top_k"] / here.layers["num_experts"]
    ui.chart_block(
        data.once(charts.load_heatmap, load, ui.theme()),
        name="load",
        alt=f"Heat-map of load by layer and expert. {says}",
        meanings=[
            ("Load", "= how often an expert was chosen, over all tokens of the run."),
            (
                "Uniform",
                f"= what each would get if all got the same: {percent(uniform.mean())} of the tokens here (k / E).",
            ),
            (
                "1×",
                "is exactly that share, 0 an expert that was never chosen. The scale ends where 99 % of experts do.",
            ),
            ("n", f"= {plural(load.groupby('layer')['count'].sum().max(), 'assignment')} in a layer."),
        ],
        rows=load,
    )


def _entropy(here: Here, totals: pd.DataFrame) -> None:
    title = "How sure are the routers?"
    if not totals["n_entropy"].sum():
        ui.section(title)
        ui.note(
            "The entropy of the routing needs router logits, and none were recorded: probe record … --capture logits"
        )
        return
    n_sequences = int(here.run["n_sequences"])
    sampled = data.ask(here.trace, "sampled_entropy", here.run_id, SAMPLED)
    curve = data.once(entropy_curve, totals, sampled, n_sequences).assign(n=totals["n_entropy"].astype(int))
    says = words.curve(curve, "mean routing entropy, as a share of the largest possible,")
    ui.section(title, says)
    ui.chart_block(
        data.once(
            charts.layer_curve,
            curve,
            ui.theme(),
            name="entropy ÷ ln E",
            reference=(1.0, "all experts equally likely"),
            top=1.0,
        ),
        name="entropy",
        alt=f"Curve of mean routing entropy by layer. {says}",
        meanings=[
            (
                "Entropy",
                "H = −Σ p ln p over all experts of a layer, in nats, from the router's scores; its mean over tokens.",
            ),
            ("÷ ln E", "makes layers comparable: 1 = all experts equally likely, 0 = one expert is certain."),
            ("n", f"= {plural(curve['n'].max(), 'token')} with logits per layer."),
            _interval_words(n_sequences),
        ],
        rows=curve,
    )


@ui.part
def _balance(here: Here, load: pd.DataFrame, totals: pd.DataFrame) -> None:
    n_sequences = int(here.run["n_sequences"])
    measure = state.one_of("balance", list(MEASURES))
    sampled = data.ask(here.trace, "sampled_load", here.run_id, SAMPLED)
    curve = data.once(balance_curve, load, sampled, measure, n_sequences).assign(n=totals["n_tokens"].astype(int))
    name, meaning = MEASURE_NAMES[measure]
    says = words.curve(curve, name)
    ui.section("How evenly is the work spread?", says)
    state.pick("Measure", "balance", list(MEASURES), kind="segmented", label_visibility="collapsed")
    ui.chart_block(
        data.once(
            charts.layer_curve,
            curve,
            ui.theme(),
            name=measure,
            reference=(1.0, "all experts equal") if measure == "max ÷ mean" else None,
        ),
        name="balance",
        alt=f"Curve of load balance by layer. {says}",
        meanings=[
            (name[0].upper() + name[1:], meaning),
            ("n", f"= {plural(curve['n'].max(), 'token')} per layer."),
            _interval_words(n_sequences),
        ],
        rows=curve,
    )
    if measure == "max ÷ mean":
        batches_section(here)


MEASURE_NAMES = {
    "cv": ("coefficient of variation", "= standard deviation of the experts' counts over their mean. 0 = all equal."),
    "max ÷ mean": (
        "busiest expert over the mean",
        "= the straggler factor, with all tokens of the trace as one batch: the slowest device sets the pace. "
        "1 = all equal. Batches are less even, see below.",
    ),
    "gini": (
        "Gini coefficient",
        "= half the mean difference between two experts, over the mean. 0 = all equal, near 1 = one does all.",
    ),
}


def _coverage(here: Here, totals: pd.DataFrame) -> None:
    totals = totals.assign(n_tokens=totals["n_tokens"] + totals["n_missing"])
    says = words.coverage(totals)
    ui.section("Is anything missing?", says)
    if not totals["n_missing"].sum():
        return
    by_reason = data.ask(here.trace, "missing", here.run_id).pivot(index="layer", columns="reason", values="n_missing")
    by_reason = by_reason.reindex(totals["layer"]).fillna(0).astype(int).reset_index()
    lost = by_reason.melt("layer", var_name="reason", value_name="n_missing").merge(totals[["layer", "n_tokens"]])
    ui.chart_block(
        data.once(charts.coverage_bars, lost, ui.theme()),
        name="coverage",
        alt=f"Bars of missing routing by layer. {says}",
        meanings=[
            (
                "Missing",
                "= tokens without routing in a layer: padding, a cached prefix, a layer that was not recorded.",
            ),
            ("Never zero:", "a token without routing is left out of every metric, not counted as a choice."),
        ],
        rows=lost,
    )


def _provenance(here: Here) -> None:
    ui.section("Where does this come from?", "What made this run: enough to say exactly, and to do it again.")
    provenance = _parsed(here.run.get("provenance"))
    run = here.run
    groups = {
        "Recording": {
            "run": f"{run['run_id']} · {legible(run['name'])}",
            "recorded": date(run["created_at"]),
            "status": str(run["status"]),
            "baseline": f"run {int(run['baseline_run_id'])}" if _given(run.get("baseline_run_id")) else NOTHING,
        },
        "Model": {
            "model": str(run["model"]),
            "revision": str(run["revision"]) if _given(run.get("revision")) else NOTHING,
        },
    }
    for name, value in provenance.items():
        title, entries = _group_of(name, value)
        groups.setdefault(title, {}).update(entries)
    ui.facts({title: entries for title, entries in groups.items() if entries})
    command = provenance.get("command") or provenance.get("command_line")
    if command:
        copyable(command if isinstance(command, str) else " ".join(map(str, command)), "overview_command")
    with st.expander("Everything, as recorded (JSON)"):
        copyable(json.dumps(provenance, indent=2, ensure_ascii=False, default=str), "overview_provenance")
    with st.expander("Layers"):
        st.dataframe(here.layers, hide_index=True)


_GROUPS = {
    "Model": ("model", "weights", "dtype", "family", "config", "revision", "parameters"),
    "Text": ("prompt", "token", "text", "dataset", "sequence", "seed", "max_", "limit"),
    "Software": ("version", "python", "torch", "transformers", "library", "librar", "package"),
    "Machine": ("device", "platform", "machine", "host", "cpu", "gpu", "cuda", "threads"),
}


def _group_of(name: str, value: Any) -> tuple[str, dict[str, str]]:
    """The group a recorded fact belongs to, and its lines: nested facts are flattened one level."""
    if name in ("command", "command_line"):
        return "Recording", {}
    title = next((group for group, starts in _GROUPS.items() if any(word in name for word in starts)), "Recording")
    if name == "notes" and isinstance(value, list):
        return title, {f"note {i}": _short(note) for i, note in enumerate(value, 1)}
    if isinstance(value, dict):
        return title, {str(key).replace("_", " "): _short(inner) for key, inner in value.items()}
    return title, {name.replace("_", " "): _short(value)}


def _short(value: Any) -> str:
    if value is None or value == "":
        return NOTHING
    if isinstance(value, str | int | float | bool):
        return str(value)
    return json.dumps(value, ensure_ascii=False, default=str)


def _parsed(provenance: Any) -> dict[str, Any]:
    """The provenance column as a dict; text that is no JSON object is shown as it is."""
    if isinstance(provenance, dict):
        return provenance
    try:
        parsed = json.loads(provenance)
    except (TypeError, ValueError):
        return {"provenance": provenance} if _given(provenance) else {}
    return parsed if isinstance(parsed, dict) else {"provenance": parsed}


def _interval_words(n_sequences: int) -> tuple[str, str]:
    if n_sequences < FEWEST:
        return ("No interval:", f"{plural(n_sequences, 'sequence')} say too little about how much others would differ.")
    of = f", interval width estimated from {SAMPLED} of them" if n_sequences > SAMPLED else ""
    return ("Band", f"= 95 % interval, bootstrap over {plural(n_sequences, 'sequence')} (1,000 resamples){of}.")


def _given(value: Any) -> bool:
    return value is not None and value == value and value != ""


def _range(values: pd.Series) -> str:
    if values.empty:
        return NOTHING
    low, high = int(values.min()), int(values.max())
    return str(low) if low == high else f"{low}–{high}"


def _shared(layers: pd.DataFrame) -> str:
    shared = int(layers["shared_experts"].fillna(0).max()) if len(layers) else 0
    return f"per layer, and {shared} shared" if shared else "per layer"


def _gating(layers: pd.DataFrame) -> str:
    kinds = sorted({str(kind) for kind in layers["gating"].dropna() if kind})
    return ", ".join(kinds[:2]) or "top-k"
