"""Consistency: how long the same experts stay of use, what a cache of them reaches, and what a memory budget buys."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from app import charts, data, state, ui, words
from app.formats import count, number, percent, size
from app.pages import Here, Page
from app.tables import planner
from app.tables.intervals import FEWEST
from probes.recording.expert_bytes import sizes_of

PAGE = Page(name="consistency", title="Consistency", icon=":material/cached:", section="Analyse", order=1, charts=True)
LENGTHS = (2, 4, 8, 16, 32, 64, 128, 256)
FORESIGHT = (4, 16, 64)  # how far ahead the best cache may look
POLICIES = {
    "lru": ("LRU", "the least recently used expert goes"),
    "lfu": ("LFU", "the least often used so far goes"),
    "belady": ("Belady", "the one used again last goes: the best there is, and it needs to know the future"),
}
GIB, MIB = 2**30, 2**20
BUDGET = "What does a memory budget buy?"
UNKNOWN_SIZE = (
    "How large an expert of this model is was not recorded (an import, or a recording of an earlier version). "
    "The chart counts experts; write the size of one above to see bytes."
)
CACHES = "What does a cache of experts reach?"


def render(here: Here) -> None:
    ui.heading(
        here.where,
        "Consistency",
        "Do neighbouring tokens use the same experts? Then a few experts in fast memory do for many tokens, and the "
        "others can stay where memory is cheap.",
    )
    if not data.load(here.trace, here.run_id)["count"].any():
        ui.nothing_yet(here.recording)
        return
    layer = _pick_layer(here)
    _srp(here, layer)
    rates = _hit_rates(here)
    if isinstance(rates, str):
        ui.section(CACHES)
        ui.note(rates)
        return
    _caches(here, layer)
    _planner(here, rates.table)


def _pick_layer(here: Here) -> int | None:
    layers = [int(layer) for layer in here.layers["layer"]]
    shown = lambda layer: "all layers" if layer == "" else f"layer {layer}"  # noqa: E731
    chosen = state.pick("Look at", "layer", ["", *layers], shown=shown, width=220)
    return None if chosen == "" else int(chosen)


def _srp(here: Here, layer: int | None) -> None:
    title = "How local is the routing?"
    enough = int(here.run["n_sequences"]) >= FEWEST
    found = data.analysis_or_why(
        here.trace, here.run_id, "srp", segment_length=LENGTHS, level=("layer", "model"), ci=enough
    )
    if isinstance(found, str):
        ui.section(title)
        ui.note(found)
        return
    table, sample = found
    table = table[table["srp"].notna()]
    if table.empty:
        ui.section(title)
        ui.note(f"No sequence of this run has {LENGTHS[0]} tokens.")
        return
    says = _srp_words(table, layer)
    ui.section(title, says)
    ui.chart_block(
        data.once(charts.srp_curves, table, ui.theme(), layer=layer),
        name="srp",
        alt=f"Curves of SRP over segment length. {says}",
        meanings=[
            ("SRP", "= segment routing best performance: how well one fixed choice of experts serves a segment of m "
             "tokens, as F1 of the experts kept against the experts used, for the best number to keep."),
            ("1", "= every token of a segment uses the same experts. The thick line has one threshold for all layers, "
             "the thin ones a threshold each."),
            ("Band", "= 95 % interval, bootstrap over sequences (1,000 resamples).")
            if enough
            else ("No interval:", "too few sequences to say how much others would differ."),
            ("n", f"= {count(table['n_windows'].max())} windows of the shortest segment in a layer, "
             f"{words.sample(sample, f'probe analyze srp {here.trace.quoted}')}."),
        ],
        rows=table,
    )  # fmt: skip


def _srp_words(table: pd.DataFrame, layer: int | None) -> str:
    model = table[table["level"] == "model"].sort_values("segment_length")
    longest = int(model["segment_length"].iloc[-1])
    first, last = model["srp"].iloc[0], model["srp"].iloc[-1]
    at = table[(table["level"] == "layer") & (table["segment_length"] == longest)].sort_values("srp")
    says = (
        f"Over segments of {int(model['segment_length'].iloc[0])} tokens SRP is {number(first)}, over {longest} tokens "
        f"{number(last)}; there layer {int(at['layer'].iloc[-1])} is the most local ({number(at['srp'].iloc[-1])}), "
        f"layer {int(at['layer'].iloc[0])} the least ({number(at['srp'].iloc[0])})"
    )
    mine = at[at["layer"] == layer]
    return f"{says}; layer {layer} has {number(mine['srp'].iloc[0])}." if len(mine) else f"{says}."


def _every_size(here: Here) -> dict[str, Any]:
    return {"level": ("layer",), "cache_size": planner.sizes(int(here.layers["num_experts"].max()))}


def _hit_rates(here: Here) -> Any:
    """Sampled table of policy, layer, cache_size, hit_rate, or why there is none."""
    return data.analysis_or_why(here.trace, here.run_id, "cache_hit_rate", policy=tuple(POLICIES), **_every_size(here))


@ui.part
def _caches(here: Here, layer: int | None) -> None:
    ahead = state.read_int("ahead")
    ahead = ahead if ahead in FORESIGHT else FORESIGHT[1]
    real = _hit_rates(here)
    best = data.analysis_or_why(here.trace, here.run_id, "sch", segment_length=(ahead,), **_every_size(here))
    if isinstance(real, str) or isinstance(best, str):
        ui.section(CACHES)
        ui.note(str(best))
        return
    curves = data.once(_ways, real.table, best.table, ahead, layer)
    says = _cache_words(curves, here, layer)
    ui.section(CACHES, says)
    state.pick("The informed cache (SCH) looks ahead", "ahead", list(FORESIGHT), default=FORESIGHT[1], kind="segmented",
               shown=lambda m: f"{m} tokens")  # fmt: skip
    ui.chart_block(
        data.once(charts.cache_curves,
            curves,
            ui.theme(),
            experts=int(here.layers["num_experts"].max()),
            top_k=int(here.layers["top_k"].max()),
        ),
        name="caches",
        alt=f"Curves of hit rate over cache size. {says}",
        meanings=[
            *((name, f"= {meaning}.") for name, meaning in POLICIES.values()),
            ("SCH", f"= a cache that knows the next {ahead} tokens and drops the expert they use least."),
            ("Hit", "= a chosen expert was in the cache before its token came. Filling a cache that has room is not "
             "counted as a miss."),
            ("n", f"= {count(real.table['n_sequences'].max())} sequences, each beginning with an empty cache; "
             f"{words.sample(real.sample, f'probe analyze cache_hit_rate {here.trace.quoted}')}."),
        ],
        rows=curves.drop(columns="known"),
    )  # fmt: skip


def _ways(real: pd.DataFrame, best: pd.DataFrame, ahead: int, layer: int | None) -> pd.DataFrame:
    """way, cache_size, rate, known: one layer, or the mean over all (each has as many tokens as the others)."""
    named = real.assign(way=real["policy"].map(lambda p: POLICIES[p][0]), known=real["policy"] == "belady")
    sch = best.rename(columns={"sch": "hit_rate"}).assign(way=f"SCH, {ahead} tokens ahead", known=True)
    columns = ["way", "known", "layer", "cache_size", "hit_rate"]
    rows = pd.concat([named[columns], sch[columns]])
    rows = rows if layer is None else rows[rows["layer"] == layer]
    mean = rows.groupby(["way", "known", "cache_size"], sort=False)["hit_rate"].mean()
    return mean.rename("rate").reset_index()


def _cache_words(curves: pd.DataFrame, here: Here, layer: int | None) -> str:
    experts = int(here.layers["num_experts"].max())
    quarter = curves["cache_size"].iloc[(curves["cache_size"] - experts / 4).abs().argmin()]
    at = curves[curves["cache_size"] == quarter].set_index("way")["rate"]
    where = "on average over the layers" if layer is None else f"in layer {layer}"
    return (
        f"With {count(quarter)} of {count(experts)} experts cached, {where} LRU hits {percent(at['LRU'])} of the "
        f"choices; Belady, which knows the future, {percent(at['Belady'])}; in a full cache, experts "
        f"drawn evenly would hit {percent(quarter / experts)}."
    )


@ui.part
def _planner(here: Here, rates: pd.DataFrame) -> None:
    head = st.container()
    rates = rates.dropna(subset=["hit_rate"])  # a layer without any routing has no hit rate
    layers = here.layers[here.layers["layer"].isin(rates["layer"])]
    one, budget, link, policy = _questions(here, layers)
    unit = planner.IN_BYTES if one is not None else planner.IN_EXPERTS
    top_k, experts = layers["top_k"].to_numpy(float), int(layers["num_experts"].max())
    one = 1.0 if one is None else one
    curves = [
        data.once(planner.curve, rates[rates["policy"] == name], top_k, experts, one).assign(policy=POLICIES[name][0])
        for name in POLICIES
    ]
    everything = planner.total(one, len(top_k)) * experts
    budget = everything // 2 if unit is planner.IN_EXPERTS else budget
    found = planner.plan(rates[rates["policy"] == policy], top_k, experts, one, budget)
    frame = pd.concat(curves, ignore_index=True)
    held = f"{number(budget / GIB)} GiB hold" if unit is planner.IN_BYTES else f"{count(int(budget))} experts are"
    says = (
        f"{held} {count(found.cache_size)} of {count(experts)} experts in each of {len(top_k)} layers; with "
        f"{POLICIES[policy][0]} a token then moves {_moved(found, unit)}."
    )
    with head:
        ui.section(BUDGET, says)
    if unit is planner.IN_EXPERTS:
        ui.note(UNKNOWN_SIZE)
    else:
        enough = planner.smallest(curves[list(POLICIES).index(policy)], 0.95)
        _plan_tiles(found, experts, everything, enough, link, POLICIES[policy][0])
    ui.chart_block(
        data.once(charts.budget_curve, frame, ui.theme(), budget=budget, all_experts=everything, unit=unit),
        name="budget",
        alt=f"Curves of what is moved per token over memory for experts. {says}",
        meanings=[
            ("Moved per token", "= misses × the size of an expert: for every layer k × (1 − hit rate)."),
            ("Budget", "is dealt out evenly: the same number of experts in every layer."),
            ("Between", "computed cache sizes the hit rate is read off a straight line. The steps are whole experts."),
            ("Not in it:", "the first filling of a cache, prefetching, and experts shared by all tokens."),
        ],
        rows=frame,
    )


def _moved(found: planner.Plan, unit: planner.Unit) -> str:
    return size(int(found.moved)) if unit is planner.IN_BYTES else f"{number(found.moved)} experts"


def _questions(here: Here, layers: pd.DataFrame) -> tuple[Any, float, float, str]:
    """Bytes of an expert (one number, one for each layer, or None), bytes of budget, bytes per second, policy."""
    size_column, budget_column, link_column, policy_column = st.columns([0.24, 0.24, 0.24, 0.28])
    known, says = _recorded_sizes(here, layers)
    usual = None if known is None else float(f"{known.mean() / MIB:.6g}")
    with size_column:
        written = state.amount_or_none(
            "One expert, MiB", "expert_mib", usual, low=1e-6, high=100_000, step=1.0, format="%.6g", help=says
        )
    one = None if written is None else known if written == usual else written * MIB
    whole = planner.total(0 if one is None else one, len(layers)) * int(layers["num_experts"].max()) / GIB
    with budget_column:
        budget = state.amount(
            "Memory for experts, GiB", "budget_gib", float(f"{whole / 2:.2g}"), low=0, high=1e6, step=0.5,
            format="%.4g", disabled=one is None,
        )  # fmt: skip
    with link_column:
        link = state.amount(
            "Link, GB/s", "link_gbs", 25, low=0.01, high=10_000, step=1.0, help="PCIe 4.0 ×16: about 25."
        )
    with policy_column:
        policy = state.pick("Policy", "policy", list(POLICIES), kind="segmented", shown=lambda name: POLICIES[name][0])
    return one, budget * GIB, link * 1e9, policy


def _recorded_sizes(here: Here, layers: pd.DataFrame) -> tuple[np.ndarray | None, str]:
    """([L] bytes of an expert of each layer as loaded, None where not all are known; what to say of them)."""
    provenance = json.loads(here.run.get("provenance") or "{}")
    loaded, stored = (sizes_of(provenance, where, layers["layer"].tolist()) for where in ("loaded", "stored"))
    if not loaded or None in loaded:
        return None, "Three matrices of hidden size × expert width, times the bytes of a number. Not recorded here."
    mean, file = np.array(loaded, float), None if None in stored else np.mean(np.array(stored, float))
    says = f"As recorded: {size(int(mean.mean()))} as loaded" + (
        f", {size(int(file))} in the checkpoint" if file else ""
    )
    return mean, f"{says}{'; the mean over layers that differ' if len(set(loaded)) > 1 else ''}."


def _plan_tiles(found: planner.Plan, experts: int, everything: float, enough: float, link: float, policy: str) -> None:
    milliseconds = 1000 * found.moved / link
    ui.tiles(
        [
            ("Cache", f"{count(found.cache_size)} of {count(experts)}", "experts in every layer"),
            ("Hit rate", percent(found.hit_rate), f"{policy}, mean over layers"),
            ("Misses", number(found.misses), "experts per token, all layers"),
            ("Moved", size(int(found.moved)), "per token"),
            ("Link time", f"{number(milliseconds)} ms" if milliseconds else "none", _speed(milliseconds)),
            ("95 % hits", f"{number(enough / GIB)} GiB", f"all experts: {number(everything / GIB)} GiB"),
        ]
    )


def _speed(milliseconds: float) -> str:
    return f"at most {number(1000 / milliseconds)} tokens/s" if milliseconds else "nothing is moved"
