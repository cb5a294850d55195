"""Facts from metrics' tables, with or without intervals: one function per fact, none where the table cannot say it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import numpy as np

from probes.findings.finding import Finding, listed, measured, number, percent, span

STRONG_NPMI = 0.1
SHOWN = 3
SHOWN_SUPER = 8
OUTSTANDING = 10  # times the median; what is published of large models is far above
CHANCE = "0 is chance, 1 always together"


def label_experts(npmi: Any, where: str, noise: str = "") -> Iterator[Finding]:
    """The expert that goes most with each label, the clearest label first. Column `q`: what survives."""
    known = npmi[npmi["npmi"].notna()]
    best = known.loc[known.groupby("target")["npmi"].idxmax()].sort_values("npmi", ascending=False, kind="stable")
    sure = best["q"] <= 0.05 if "q" in best else best["npmi"] == best["npmi"]
    strong, weak = best[(best["npmi"] >= STRONG_NPMI) & sure], best[(best["npmi"] < STRONG_NPMI) & sure]
    if len(strong) + len(weak):
        shown = strong if len(strong) else weak
        pairs = [f"{r['target']} → {r['layer']}·{r['expert']} ({number(r, 'npmi')})" for _, r in shown.iterrows()]
        text = f"As label → layer·expert (nPMI, {CHANCE}): {', '.join(pairs)}."
    else:
        text = "No label has an expert of its own."
    if len(strong) and len(weak):
        text += f" No expert above {STRONG_NPMI:g} for {listed(list(weak['target']))}."
    if not sure.all():
        text += f" Within noise: {listed(list(best['target'][~sure]))}."
    text += f" n = {int(best.iloc[0]['n_tokens']):,} tokens.{noise}"
    fields = measured(best.iloc[0], "npmi", "nPMI")
    yield Finding(
        "Labels have experts of their own" if len(strong) else "Labels share their experts",
        text,
        f"probe analyze npmi {where} --target label --ci",
        **fields,
    )


def separating_experts(rd: Any, names: tuple[str, str], where: str, noise: str) -> Iterator[Finding]:
    """The experts chosen more often in one label than in the other. Column `q`: what survives."""
    a, b = names
    sure = rd[rd["q"] <= 0.05]
    command = f"probe analyze risk_difference {where} --label {shlex.quote(a)} --against {shlex.quote(b)} --ci"
    n = f" n = {int(rd.iloc[0]['n_tokens']):,} tokens.{noise}"
    if not len(sure):
        text = f"No expert is chosen more often in {a} than in {b} beyond noise.{n}"
        yield Finding(
            f"{a} against {b}: within noise", text, command, **measured(rd.iloc[0], "rd", "difference of shares")
        )
        return
    shown = [f"{r['layer']:.0f}·{r['expert']:.0f} ({number(r, 'rd')})" for _, r in sure.head(SHOWN).iterrows()]
    text = (
        f"Share of the tokens of {a} that choose an expert minus the share of {b}, largest first, as layer·expert: "
        f"{', '.join(shown)}; negative is more in {b}.{n}"
    )
    yield Finding(
        f"Experts that tell {a} from {b}", text, command, **measured(sure.iloc[0], "rd", "difference of shares")
    )


def busiest(load: Any, where: str) -> Iterator[Finding]:
    """The expert furthest above an even share."""
    if not load["count"].sum():
        return
    row = load.loc[load["share"].idxmax()]
    mean = 1 / load.groupby("layer").size()[row["layer"]]
    text = (
        f"Expert {row['expert']:.0f} of layer {row['layer']:.0f} takes {percent(row, 'share')} of its layer's "
        f"assignments, {row['share'] / mean:.1f} times an even share, with all tokens as one batch: "
        f"single batches are less even (probe analyze batch_load). n = {int(row['n_tokens']):,} tokens."
    )
    fields = measured(row, "share", "share of assignments")
    yield Finding("The busiest expert", text, f"probe analyze load {where} --summary", **fields)


def dead(load: Any, where: str) -> Iterator[Finding]:
    """How many experts were never chosen, and how many hardly ever."""
    routed = load[load["share"].notna()]
    if not len(routed):
        return
    even = 1 / routed.groupby("layer")["expert"].transform("size")
    never, hardly = routed[routed["count"] == 0], routed[(routed["count"] > 0) & (routed["share"] < even / 10)]
    if len(never):
        layers = listed([f"{n} in layer {layer}" for layer, n in never.groupby("layer").size().items()])
        text = f"{len(never)} of {len(routed)} experts were never chosen: {layers}."
    else:
        text = f"All {len(routed)} experts were chosen at least once."
    text += f" {len(hardly) or 'None'} got less than a tenth of an even share." + (
        f" n = {int(routed['n_tokens'].max()):,} tokens per layer."
    )
    title = f"{len(never)} dead experts" if len(never) else "No dead experts"
    fields: dict[str, Any] = {"value": float(len(never)), "unit": "experts", "n_tokens": int(routed["n_tokens"].max())}
    yield Finding(title, text, f"probe analyze load {where} --summary", **fields)


def certainty(entropy: Any, num_experts: int, where: str) -> Iterator[Finding]:
    """The layers whose routers are most and least sure. Columns layer, entropy_mean, n_tokens."""
    known = entropy[entropy["n_tokens"] > 0]
    if not len(known):
        return
    low, high = (known.loc[known["entropy_mean"].agg(end)] for end in ("idxmin", "idxmax"))
    unsure = f"layer {high['layer']:.0f} ({number(high, 'entropy_mean')} nats)"
    text = (
        f"Routers are most certain in layer {low['layer']:.0f} (mean entropy {number(low, 'entropy_mean')} nats) and "
        f"least in {unsure}; choosing evenly would be {np.log(num_experts):.2f}. n = {int(high['n_tokens']):,} tokens."
    )
    fields = measured(low, "entropy_mean", "nats")
    yield Finding("Certainty by layer", text, f"probe analyze routing_entropy {where} --ci", **fields)


def together(pair: Any, where: str) -> Iterator[Finding]:
    """Two experts of a layer that go together. `pair`: a row of coactivation."""
    text = (
        f"Experts {pair['expert']:.0f} and {pair['other']:.0f} of layer {pair['layer']:.0f} are chosen together "
        f"{number(pair, 'lift_distinct', 1)} times as often as by chance: {int(pair['n_ij']):,} of "
        f"{int(pair['n_tokens']):,} tokens (nPMI {pair['npmi_distinct']:.2f}). Chance: as many distinct experts per "
        "token, drawn with these loads."
    )
    fields = measured(pair, "lift_distinct", "times chance")
    yield Finding("Experts that go together", text, f"probe analyze coactivation {where}", **fields)


def strongest_pair(coactivation: Any) -> Any:
    """The row with the highest nPMI, which unlike lift is not led by pairs seen once; None without pairs."""
    seen = coactivation[(coactivation["n_ij"] > 0) & (coactivation["expert"] < coactivation["other"])]
    seen = seen[seen["npmi_distinct"].notna()]
    return seen.loc[seen["npmi_distinct"].idxmax()] if len(seen) else None


def distances(distance: Any, where: str) -> Iterator[Finding]:
    """The labels that load the last layer's experts most and least differently."""
    last = distance[(distance["layer"] == distance["layer"].max()) & distance["l2"].notna()]
    if not len(last):
        return
    far, near = (last.loc[last["l2"].agg(end)] for end in ("idxmax", "idxmin"))
    text = f"In layer {far['layer']}, {far['a']} and {far['b']} load the experts most differently: {_distance(far)}."
    if len(last) > 1:
        text += f" {near['a']} and {near['b']} are closest: {_distance(near)}."
    text += f" n = {int(far['n_tokens']):,} tokens."
    command = f"probe analyze dataset_distance {where} --ci"
    yield Finding("Labels that differ most", text, command, **measured(far, "l2", "distance of loads"))


def _distance(row: Any) -> str:
    return f"distance of loads {number(row, 'l2')} of at most 1.41, Jensen–Shannon {row['js_bits']:.2f} bits"


def largest_outputs(outputs: Any, where: str, token: str | None) -> Iterator[Finding]:
    """Super experts, or that there are none. `token`: the text that made the largest output."""
    known = outputs[outputs["max_abs_output"].notna()]
    if not len(known):
        return
    found = known[known["is_super"].astype(bool)].sort_values("max_abs_output", ascending=False)
    top = known.loc[known["max_abs_output"].idxmax()]
    largest, median = float(top["max_abs_output"]), float(known["max_abs_output"].median())
    made = f", by the token {token!r}," if token is not None else ""
    times = f", {largest / median:.1f} times the median expert's" if median else ""
    names = [f"{r['layer']}·{r['expert']}" for _, r in found.head(SHOWN_SUPER).iterrows()]
    rule = "above the 99.5th percentile and a tenth of the largest, in the first three quarters of the layers"
    text = (
        f"The largest component of an expert's output{made} is {largest:.3g} (layer·expert {top['layer']}·"
        f"{top['expert']}){times}. Super experts by the published rule ({rule}; it nearly always names one): "
        f"{listed(names) if names else 'none'}. n = {int(top['n_tokens']):,} tokens."
    )
    fields: dict[str, Any] = {"value": largest, "unit": "largest |output component|", "n_tokens": int(top["n_tokens"])}
    far = largest > OUTSTANDING * median
    title = f"Super experts: {listed(names)}" if names else "A very large output" if far else "No super experts"
    if names and not far:
        title += ", hardly above the others"
    yield Finding(title, text, f"probe analyze super_experts {where}", **fields)


def next_layer(crossing: Any, num_experts: int, where: str) -> Iterator[Finding]:
    """How much the first choice of one layer says about the next one's."""
    known = crossing[crossing["mi_bits"].notna()]
    if not len(known):
        return
    row = known.loc[known["mi_bits"].idxmax()]
    text = (
        f"Which expert is first in layer {row['layer']:.0f} says {number(row, 'mi_bits')} of at most "
        f"{np.log2(num_experts):.0f} bits about the first in layer {row['next_layer']:.0f}, the most of any two "
        f"neighbours ({span(known['mi_bits'].min(), known['mi_bits'].max())} bits); so many "
        f"tokens of layers that ignore each other would show {float(row['mi_chance']):.2g}. "
        f"n = {int(row['n_tokens']):,} tokens."
    )
    fields = measured(row, "mi_bits", "bits")
    yield Finding("One layer tells about the next", text, f"probe analyze cross_layer {where} --ci", **fields)


def cache(lru: Any, ahead: Any, fixed: Any, top_k: int, num_experts: int, where: str) -> Iterator[Finding]:
    """What a cache of 2k experts per layer would do. Tables of cache_hit_rate, sch and srp (model level)."""
    known = lru[lru["hit_rate"].notna()]
    if not len(known):
        return
    row, size = known.loc[known["hit_rate"].idxmin()], int(known["cache_size"].iloc[0])
    misses = (1 - known["hit_rate"]).mean() * top_k
    text = (
        f"Keeping {size} of {num_experts} experts a layer in fast memory, least recently used out first, hits "
        f"{span(100 * known['hit_rate'].min(), 100 * known['hit_rate'].max(), '{:.0f}')} % of the choices by layer "
        f"(lowest: layer {row['layer']}, {percent(row, 'hit_rate')}), so {misses:.1f} experts per token and layer are "
        f"fetched; knowing the next {int(ahead['segment_length'].iloc[0])} tokens would hit "
        f"{span(100 * ahead['sch'].min(), 100 * ahead['sch'].max(), '{:.0f}')} %."
    )
    if len(fixed) and fixed["srp"].notna().any():
        srp = fixed.iloc[0]
        text += f" SRP of {srp['segment_length']}-token segments: {number(srp, 'srp')}."
    text += f" n = {int(row['n_tokens']):,} tokens, {int(row['n_sequences']):,} sequences."
    fields = measured(row, "hit_rate", "share of choices")
    command = f"probe analyze cache_hit_rate {where} --level layer --cache-size {size} --ci"
    yield Finding("What a cache of experts would hit", text, command, **fields)


def norms(ranks: Any, where: str) -> Iterator[Finding]:
    """Whether the gate prefers experts with large outputs. Table of norm_vs_gate --summary."""
    known = ranks[ranks["spearman"].notna()]
    if not len(known):
        return
    low, high = (known.loc[known["spearman"].agg(end)] for end in ("idxmin", "idxmax"))
    row = high if high["spearman"] >= -low["spearman"] else low
    larger = "larger" if row["spearman"] > 0 else "smaller"
    text = (
        f"Among the chosen experts, rank by gate score and rank by output norm correlate at "
        f"{number(row, 'spearman')} in layer {row['layer']:.0f} (all layers: "
        f"{span(low['spearman'], high['spearman'])}; −1 opposite, 1 same order): the preferred expert has the {larger} "
        f"output there. n = {int(row['n_tokens']):,} tokens."
    )
    fields = measured(row, "spearman", "Spearman correlation")
    yield Finding("Gate score and output norm", text, f"probe analyze norm_vs_gate {where} --summary --ci", **fields)
