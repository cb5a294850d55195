"""What a chart shows, in a sentence: for the page, and for whoever cannot see the chart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from app.formats import count, number, percent, plural

if TYPE_CHECKING:
    from probes.sampling import Sample


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
        return f"from {all_of}" + (f"; the noise of it from {drawn}" if of.noise == "sample" else "")
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
