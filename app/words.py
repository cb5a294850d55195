"""What a chart shows, in a sentence: for the page, and for whoever cannot see the chart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from app.formats import count, number, percent, plural

if TYPE_CHECKING:
    from probes.sampling import Sample

CHANCE_OF_PAIRS = "each token draws as many different experts as it has, so that each expert keeps its load."


def load(frame: pd.DataFrame) -> str:
    """Which expert carries the most, and how many were never chosen. `frame`: layer, expert, count, ratio."""
    known = frame.dropna(subset=["ratio"])
    if known.empty:
        return "No routing has been recorded yet."
    top = known.loc[known["ratio"].idxmax()]
    idle = int((known["count"] == 0).sum())
    never = f"{count(idle)} {'was' if idle == 1 else 'were'} never chosen" if idle else "all were chosen at least once"
    where = f"{plural(len(known), 'expert')} in {plural(known['layer'].nunique(), 'layer')}"
    busiest = f"The busiest is expert {int(top['expert'])} of layer {int(top['layer'])}"
    return f"{busiest}, with {number(top['ratio'])} times the uniform load; of {where}, {never}."


def curve(frame: pd.DataFrame, what: str) -> str:
    """Where a per-layer value is lowest and highest. `frame`: layer, value."""
    known = frame.dropna(subset=["value"])
    if known.empty:
        return f"There is no {what} to show."
    low, high = known.loc[known["value"].idxmin()], known.loc[known["value"].idxmax()]
    return (
        f"{what[0].upper()}{what[1:]} runs from {number(low['value'])} in layer {int(low['layer'])} "
        f"to {number(high['value'])} in layer {int(high['layer'])}."
    )


def largest(frame: pd.DataFrame, column: str) -> str:
    """Where a value per token is largest. `frame`: token, position and the column."""
    known = frame.dropna(subset=[column])
    if known.empty:
        return "There is nothing to show."
    top = known.loc[known[column].idxmax()]
    return f"It is largest, {number(top[column])}, at position {int(top['position'])} ({top['token']})."


def coverage(frame: pd.DataFrame) -> str:
    """How much is missing. `frame`: layer, n_tokens, n_missing (summed over reasons)."""
    total, lost = int(frame["n_tokens"].sum()), int(frame["n_missing"].sum())
    if not total:
        return "No routing has been recorded yet."
    if not lost:
        tokens = plural(int(frame["n_tokens"].max()), "token")
        return f"Nothing is missing: {tokens}, each with routing in every layer."
    worst = frame.loc[(frame["n_missing"] / frame["n_tokens"]).idxmax()]
    return (
        f"{percent(lost / total)} of the token–layer pairs have no routing ({count(lost)} of {count(total)}); "
        f"most in layer {int(worst['layer'])}, {percent(worst['n_missing'] / worst['n_tokens'])}."
    )


def sample(of: Sample, command: str = "") -> str:
    """How much of the run something rests on. `command`: what to type for the whole, said where it is not the whole."""
    drawn = f"{count(of.n_sequences)} of {plural(of.of_sequences, 'sequence')}, drawn evenly"
    all_of = f"all {plural(of.of_tokens, 'token')}"
    if of.values == "saved":
        return f"from a table saved in the trace, of {all_of}"
    if of.values != "sample":
        return f"from {all_of}" + (f"; intervals and tests from {drawn}" if of.noise == "sample" else "")
    return f"from {drawn} ({plural(of.n_tokens, 'token')})" + (f"; the whole: {command}" if command else "")


def token_entropy(frame: pd.DataFrame) -> str:
    """Where the routers were less sure about a token than about its sequence. `frame`: layer, value, mean (nats), n."""
    known = frame.dropna(subset=["value", "mean"])
    most = known.loc[(known["value"] - known["mean"]).idxmax()]
    if most["value"] <= most["mean"]:
        return "In every layer the routers were surer about this token than, on average, about its sequence."
    return (
        f"Compared with its sequence, the routers were least sure about it in layer {int(most['layer'])}: "
        f"{number(most['value'])} nats, {number(most['mean'])} on average over {plural(most['n'], 'token')}."
    )


def strongest_labels(best: pd.DataFrame, layer: int) -> str:
    """Which expert goes most with which label in a layer. `best`: target, expert, npmi; one row per label."""
    if best.empty:
        return f"No label meets an expert in layer {layer}."
    top = best.sort_values("npmi", ascending=False, kind="stable").head(3)
    pairs = ", ".join(f"{r.target} with expert {r.expert} ({number(r.npmi)})" for r in top.itertuples())
    return f"In layer {layer}, most of all go together: {pairs} (nPMI: 0 is chance, 1 always together)."


def deepest_labels(best: pd.DataFrame) -> str:
    """Where labels separate most. `best`: layer, target, npmi, expert."""
    top = best.loc[best["npmi"].idxmax()]
    mean = best.groupby("layer")["npmi"].mean()
    return (
        f"The strongest tie is {top['target']} with expert {top['expert']} of layer {top['layer']} "
        f"(nPMI {number(top['npmi'])}); over all labels layer {mean.idxmax()} separates them most."
    )


def contrast(frame: pd.DataFrame, a: str, b: str) -> str:
    """The expert that differs most between two labels. `frame`: layer, expert, value, low, high, q, sure."""
    sure = frame[frame["sure"]]
    if sure.empty:
        return f"No expert is chosen more often in {a} than in {b}, or less, beyond noise (q ≤ 5 %)."
    top = sure.iloc[0]
    more, less = (a, b) if top["value"] > 0 else (b, a)
    low, high = sorted((abs(top["low"]), abs(top["high"])))
    return (
        f"{plural(len(sure), 'expert')} of {count(len(frame))} differ beyond noise (q ≤ 5 %). Expert "
        f"{int(top['expert'])} of layer {int(top['layer'])} differs most: {percent(abs(top['value']))} more of the "
        f"tokens of {more} choose it than of {less} (95 % interval {percent(low)} to {percent(high)})."
    )


def markers(frame: pd.DataFrame, plus: str, minus: str) -> str:
    """The expert that goes most with a token. `frame`: layer, expert, value, low, high, sure."""
    top = frame.loc[frame["value"].idxmax()]
    against = f" rather than with {minus}" if minus else ""
    return (
        f"Expert {int(top['expert'])} of layer {int(top['layer'])} goes most with {plus}{against}: score "
        f"{number(top['value'])} (95 % interval {number(top['low'])} to {number(top['high'])}); "
        f"{plural(int(frame['sure'].sum()), 'expert')} of {count(len(frame))} have an interval without 0."
    )


def vocabulary(table: pd.DataFrame, often: pd.DataFrame, layer: int) -> str:
    """How much tokens belong to one expert. `table`, `often`: token, expert, share, n; the latter of common tokens."""
    if table.empty:
        return f"Layer {layer} has no routing in what was read."
    owned = int((often["share"] >= 0.9).sum())
    return (
        f"In layer {layer}, {count(owned)} of {plural(len(often), 'token')} seen often enough send at least 90 % of "
        f"their occurrences to one expert first; the median token sends {percent(often['share'].median())}."
    )


def expert_labels(frame: pd.DataFrame, expert: int) -> str:
    """The labels of an expert. `frame`: name, value, low, high, sure; the largest value first."""
    strong = frame[frame["sure"] & (frame["value"] > 0)]
    if strong.empty:
        return f"Expert {expert} has no label of its own: no interval lies above chance."
    shown = ", ".join(
        f"{r.name_} ({number(r.value)})" for r in strong.rename(columns={"name": "name_"}).head(3).itertuples()
    )
    return f"It goes most with {shown}; {plural(len(strong), 'label')} of {count(len(frame))} lie above chance."


def expert_tokens(frame: pd.DataFrame) -> str:
    """The tokens of an expert. `frame`: npmi, chosen, n; the largest nPMI first."""
    if frame.empty:
        return "No token that was read often enough chose it."
    top, above = frame.iloc[0], int((frame["low"] > 0).sum())
    return (
        f"The top token is routed here {count(top['chosen'])} of {count(top['n'])} times (nPMI {number(top['npmi'])}); "
        f"{count(above)} of the {plural(len(frame), 'listed token')} {'is' if above == 1 else 'are'} significantly "
        "above chance."
    )


def partners(mine: pd.DataFrame) -> str:
    """The expert most often chosen with it. `mine`: other, conditional lift_distinct; the largest nPMI first."""
    if mine.empty:
        return "It was never chosen together with another."
    top = mine.iloc[0]
    return f"Most with expert {int(top['other'])}, {number(top['lift_distinct'])} times as often as by chance."


def alike(found: pd.DataFrame) -> str:
    """Who takes the same tokens. `found`: expert, similarity; the most alike first."""
    if found.empty:
        return "It was chosen too seldom in what was read to say."
    top = found.iloc[0]
    return f"Expert {int(top['expert'])} takes the most alike tokens (overlap {number(top['similarity'])})."


def importance(mine: pd.DataFrame, experts: int) -> str:
    """Where an expert stands by each criterion. `mine`: criterion, rank."""
    best, worst = mine.loc[mine["rank"].idxmin()], mine.loc[mine["rank"].idxmax()]
    if best["rank"] == worst["rank"]:
        return f"Rank {best['rank']} of {experts} in its layer by every criterion this run allows."
    return (
        f"By {best['criterion']} it is number {best['rank']} of {experts} in its layer, by {worst['criterion']} number "
        f"{worst['rank']}."
    )


def label_range(labels: pd.DataFrame) -> str:
    """Which label is highest and lowest over all layers. `labels`: layer, label, value; none for fewer than two."""
    means = labels.groupby("label")["value"].mean().dropna()
    if len(means) < 2:
        return ""
    high, low = (f"{name} ({number(means[name])})" for name in (means.idxmax(), means.idxmin()))
    return f" Over all layers it is highest for {high}, lowest for {low}."


def top_p(table: pd.DataFrame, top_k: int) -> str:
    """How many experts top-p would use. `table`: layer, p, mean, ci_low, ci_high."""
    part = table[(table["p"] == 0.7) & table["mean"].notna()]
    if part.empty:
        return ""
    low, high = part.loc[part["mean"].idxmin()], part.loc[part["mean"].idxmax()]
    return (
        f"To have more than 70 % of the score together, tokens need {number(low['mean'])} experts on average in layer "
        f"{int(low['layer'])} and {number(high['mean'])} in layer {int(high['layer'])}; they get {top_k}."
    )


def super_experts(known: pd.DataFrame) -> str:
    """Whose outputs are largest, and by how much. `known`: layer, expert, max_abs_output, is_super."""
    if known.empty:
        return "No output of any expert is known."
    top, n = known.loc[known["max_abs_output"].idxmax()], int(known["is_super"].sum())
    times = float(top["max_abs_output"]) / float(known["max_abs_output"].median())
    named = f"The published rule names {plural(n, 'super expert')}" if n else "The published rule names none"
    return (
        f"{named} of {plural(len(known), 'expert')}. The largest output, {number(top['max_abs_output'])}, is that of "
        f"expert {int(top['expert'])} of layer {int(top['layer'])}: {number(times)} times the middle expert's."
    )


def who_did_it(found: pd.DataFrame) -> str:
    """Whether one place made them all. `found`: sequence_id, position; the experts looked at."""
    places = found.dropna(subset=["position"])
    if places.empty:
        return ""
    start = int((places["position"] == 0).sum())
    if len(places) == 1:
        return "Its largest output came at the first position of a sequence." if start else ""
    return f"{count(start)} of {count(len(places))} had their largest output at the first position of a sequence."


def sinks(table: pd.DataFrame, n: int) -> str:
    """Whether a few tokens draw most peaks. `table`: n of each token, the most first; `n`: all experts."""
    first, three = int(table["n"].iloc[0]), int(table["n"].head(3).sum())
    spread = "Peaks are spread over many tokens" if three < n / 4 else "A few tokens draw many of the peaks"
    return (
        f"{spread}: {percent(first / n)} of the experts peak at the commonest, {percent(three / n)} at the first three."
    )


def beside(one: pd.DataFrame, other: pd.DataFrame, same_layer: bool) -> str:
    """How alike two views of the same tokens are. `one`, `other`: position, token_id, experts of each token."""
    both = one.merge(other, on="position", suffixes=("", "_other"))
    if both.empty:
        return "The two share no token."
    ids = both[["token_id", "token_id_other"]].dropna()
    if (ids["token_id"] != ids["token_id_other"]).any():
        return "The two hold different tokens at the same positions: they are not the same text."
    if not same_layer:
        return "Expert numbers mean nothing across layers: compare where the colour changes, not which colour it is."
    pairs = zip(both["experts"], both["experts_other"], strict=True)
    routed = [(set(map(int, a)), set(map(int, b))) for a, b in pairs if hasattr(a, "__len__") and hasattr(b, "__len__")]
    same = sum(a == b for a, b in routed)
    return f"{count(same)} of {plural(len(routed), 'token')} here have the same experts in both."


def token_logits(frame: pd.DataFrame, layer: int) -> str:
    """How far the chosen experts stand above the rest. `frame`: expert, logit, probability, chosen."""
    chosen, rest = frame[frame["chosen"].astype(bool)], frame[~frame["chosen"].astype(bool)]
    if chosen.empty or rest.empty:
        return ""
    gap = float(chosen["logit"].min()) - float(rest["logit"].max())
    above = "above" if gap >= 0 else "below"
    last, best = chosen.loc[chosen["logit"].idxmin(), "expert"], rest.loc[rest["logit"].idxmax(), "expert"]
    return (
        f"The last expert chosen, {int(last)}, lies {number(abs(gap))} {above} the best one not chosen, {int(best)}; "
        f"the chosen hold {percent(float(chosen['probability'].sum()))} of the score."
    )


def firing(found: pd.DataFrame) -> str:
    """Where an expert fires most. `found`: sequence_id, label, n_fired, n_tokens; the largest share first."""
    if found.empty:
        return "Nowhere in what was looked through."
    top = found.iloc[0]
    share = percent(top["n_fired"] / top["n_tokens"])
    return f"Most in sequence {int(top['sequence_id'])}: {share} of its tokens choose it."
