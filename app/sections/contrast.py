"""What tells two labels or two tokens apart: the experts that differ most, with intervals and what is within noise."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

import pandas as pd
import streamlit as st

from app import charts, data, state, ui, words
from app.components import cells
from app.components.token_text import visible
from app.formats import count, number, percent, plural
from app.pages import Here
from app.tables.specialization import furthest
from probes.errors import ProbeError

SHOWN = 20  # experts
CONTRAST_ROWS = 150_000  # enough for the width of an interval; labels are dealt out a thousand times over them


@ui.part
def contrast_section(here: Here, labels: list[str]) -> None:
    ui.section("What tells two sets of tokens apart?")
    kinds = ["labels", "markers"] if len(labels) > 1 else ["markers"]
    first, second, third = st.columns([0.24, 0.38, 0.38])
    with first:
        kind = state.pick("Compare", "compare", kinds, kind="segmented")
    if kind == "labels":
        _contrast_labels(here, labels, second, third)
    else:
        _contrast_markers(here, second, third)


def _contrast_labels(here: Here, labels: list[str], left: Any, right: Any) -> None:
    distance, _ = data.analysis(here.trace, here.run_id, "dataset_distance")
    a, b = furthest(distance) or (labels[0], labels[1])
    with left:
        a = state.pick("More in", "label_a", labels, default=a)
    with right:
        others = [label for label in labels if label != a]
        b = state.pick("than in", "label_b", others, default=b if b != a else others[0])
    table, sample = data.analysis(
        here.trace, here.run_id, "risk_difference", label=a, against=b, ci=True, test=True, most_rows=CONTRAST_ROWS
    )
    frame = table.rename(columns={"rd": "value", "ci_low": "low", "ci_high": "high"}).dropna(subset=["value"])
    frame["sure"] = frame["q"] <= 0.05
    says = words.contrast(frame, a, b)
    trace, first, second = (shlex.quote(word) for word in (here.trace.name, a, b))
    command = f"probe analyze risk_difference {trace} --label {first} --against {second} --ci --test"
    _contrast_chart(
        frame,
        says,
        "difference of shares",
        (a, b),
        table,
        [
            (
                "Difference",
                "= share of the first set's tokens that choose the expert, minus the share of the second's.",
            ),
            ("Lines", "= 95 % intervals, bootstrap over sequences."),
            (
                "Pale",
                "= within noise: q > 5 %, Benjamini–Hochberg over all experts, labels dealt out anew over "
                "sequences 1,000 times.",
            ),
            ("n", f"= {plural(frame['n_tokens'].max(), 'token')}, {words.sample(sample, command)}."),
        ],
        lambda row: _contrast_hover(row, a, b),
    )


def _contrast_markers(here: Here, left: Any, right: Any) -> None:
    with left:
        plus = state.search("More at the token", "marker_a", placeholder="such as <think>")
    with right:
        minus = state.search("than at the token", "marker_b", placeholder="such as </think> (may stay empty)")
    if not plus:
        ui.note(
            "Give the text of a token: the experts that go with it are ranked over all layers (RICE's "
            "cognitive-expert score)."
        )
        return
    params: dict[str, Any] = {"contrast": plus, "minus": (minus,)} if minus else {"contrast": plus}
    try:
        table, sample = data.analysis(here.trace, here.run_id, "npmi", ci=True, **params)
    except ProbeError as error:
        ui.note(f"{error}.")
        return
    frame = table.rename(columns={"score": "value", "ci_low": "low", "ci_high": "high"}).dropna(subset=["value"])
    if frame.empty or not frame["n_x"].max():
        ui.note(
            f"The token {visible(plus)} does not occur in what was read ({words.sample(sample)}). Its text has to "
            f"be exact, with the space before it."
        )
        return
    frame = frame.sort_values("value", ascending=False, kind="stable")
    frame["sure"] = (frame["low"] > 0) | (frame["high"] < 0)
    says = words.markers(frame, visible(plus), visible(minus) if minus else "")
    name = "nPMI(first) − nPMI(second)" if minus else "nPMI"
    sides = (visible(plus), visible(minus) if minus else "other tokens")
    _contrast_chart(
        frame,
        says,
        name,
        sides,
        table,
        [
            (
                "Score",
                "= nPMI of expert and first token, minus that of expert and second token (RICE, arXiv 2505.14681).",
            ),
            ("Lines", "= 95 % intervals, bootstrap over sequences; pale where they hold 0."),
            ("n", f"= {plural(frame['n_x'].max(), 'occurrence')} of the first token, {words.sample(sample)}."),
        ],
        lambda row: _marker_hover(row, plus),
    )


def _contrast_chart(
    frame: pd.DataFrame,
    says: str,
    name: str,
    sides: tuple[str, str],
    table: pd.DataFrame,
    meanings: list[tuple[str, str]],
    hover: Callable[[Any], str],
) -> None:
    drawn = frame.head(SHOWN)
    drawn = drawn.assign(hover=[hover(row) for row in drawn.itertuples()])
    ui.html(f'<p class="rw-says">{cells.safe(says)}</p>')
    ui.chart_block(
        data.once(charts.contrast_bars, drawn, ui.theme(), name=name, sides=sides),
        name="contrast",
        alt=f"Bars of the experts that differ most. {says}",
        meanings=meanings,
        rows=table,
    )
    links = " · ".join(
        cells.link("experts", f"{r.layer}·{r.expert}", layer=r.layer, expert=r.expert)
        for r in frame.head(8).itertuples()
    )
    ui.html(f'<p class="rw-quiet">Look at the experts: {links}</p>')


def _contrast_hover(row: Any, a: str, b: str) -> str:
    shares = [row.a1 / max(row.a1 + row.d1, 1), row.a2 / max(row.a2 + row.d2, 1)]
    sides = "<br>".join(f"{charts.plain(name)}: {percent(share)}" for name, share in zip((a, b), shares, strict=True))
    noise = f"<br>difference {number(row.value)} [{number(row.low)}, {number(row.high)}], q = {number(row.q, 2)}"
    return f"<b>Layer {row.layer} · expert {row.expert}</b><br>{sides}{noise}"


def _marker_hover(row: Any, plus: str) -> str:
    interval = f" [{number(row.low)}, {number(row.high)}]"
    share = f"<br>chosen at {count(row.n_xy)} of {plural(row.n_x, 'occurrence')} of {charts.plain(visible(plus))}"
    return f"<b>Layer {row.layer} · expert {row.expert}</b><br>score {number(row.value)}{interval}{share}"
