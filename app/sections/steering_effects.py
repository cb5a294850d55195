"""What an evaluation on Steering found: a table of all measures, a chart of each, the command that repeats it."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import streamlit as st

from app import charts, ui
from app.charts.base import shortened
from app.components import cells
from app.formats import NOTHING, number, percent, plural
from app.sections.steering_take_away import FILE, file_button
from probes.interventions import interventions

HEAD = ("measure", "#baseline", "#steered", "#difference", "95 % interval", "#corrected p", "#random controls", "#n")


SPREAD = ["low", "high", "baseline", "control_min", "control_max"]


def effects_section(found: Any, command: str) -> None:
    """found: an `Evaluation` of one arm. command: what to type for the same."""
    frame = found.frame()
    steered = frame[frame["arm"] == "steered"]
    for task, rows in steered.groupby("task", sort=False):
        ui.html(cells.table(HEAD, map(_cells, rows.itertuples()), f"{task}: {_asked(found)}"))
    ui.quiet(f"{'; '.join(found.notes)}.")
    for measure, rows in steered.dropna(subset=["baseline"]).groupby("measure", sort=False):
        if rows[SPREAD].stack().nunique() > 1:  # else there is nothing to see
            _chart(str(measure), rows, found)
    with st.expander("All numbers, and the command that gives them"):
        st.dataframe(frame, hide_index=True)
        st.code(command, language="bash", wrap_lines=True)
        if FILE in command:
            specs = [one for one in found.arms["steered"] if one["name"] in interventions()]
            file_button(json.dumps(specs, indent=1), "steering_eval_spec")


def _asked(found: Any) -> str:
    """What was evaluated, in short."""
    return shortened(" + ".join(one["name"] for one in found.arms["steered"]), 120)


def _cells(row: Any) -> list[str]:
    """One measure; a share is given as such, any other value with its unit."""
    if row.baseline != row.baseline:  # KL is a difference by itself
        spread = f"{_value(row, row.low)} to {_value(row, row.high)}"
        return [_name(row), NOTHING, _value(row, row.value), NOTHING, spread, NOTHING, _control(row), f"{row.n:,}"]
    spread = f"{_value(row, row.difference_low)} to {_value(row, row.difference_high)}"
    values = [_value(row, value) for value in (row.baseline, row.value, row.difference)]
    return [_name(row), *values, spread, number(row.p_holm), _control(row), f"{row.n:,}"]


def _name(row: Any) -> str:
    name = str(row.measure).replace("_", " ")
    return name if _is_share(row) or row.unit == row.measure else f"{name} ({row.unit})"


def _control(row: Any) -> str:
    """Their mean, how many they are and of which kind; or nothing, the reason being said below the table."""
    kind = f" {row.control_kind}" if isinstance(row.control_kind, str) else ""
    return f"{_value(row, row.control)} (n = {int(row.controls)}){kind}" if row.control == row.control else NOTHING


def _chart(measure: str, rows: pd.DataFrame, found: Any) -> None:
    ui.chart_block(
        charts.effect_bars(rows.assign(arm=rows["task"]), ui.theme(), f"{measure} ({rows['unit'].iloc[0]})"),
        name=f"effect-{measure}".replace(" ", "-"),
        alt=" ".join(sentence(row) for row in rows.itertuples()),
        meanings=[
            ("Interval", "95 %, bootstrap over items."),
            ("Control", control_meaning(found)),
        ],
        rows=rows,
    )


def sentence(row: Any) -> str:
    """One measure in words."""
    text = (
        f"{_name(row)}: {_value(row, row.value)}, baseline {_value(row, row.baseline)}; difference "
        f"{_value(row, row.difference)} (95 % interval {_value(row, row.difference_low)} to "
        f"{_value(row, row.difference_high)}"
    )
    text += f", corrected p = {number(row.p_holm)})" if row.p_holm == row.p_holm else ")"
    kind = row.control_kind if isinstance(getattr(row, "control_kind", None), str) else "random"
    many = f"; {plural(int(row.controls), f'{kind} control')} {_value(row, row.control)}"
    if row.control == row.control and row.controls:
        return text + many
    note = getattr(row, "control_note", None)
    return f"{text}; {note}" if isinstance(note, str) else text


def control_meaning(found: Any) -> str:
    """What the controls are, and what they carry, or why there are none."""
    said = " ".join(f"{one.sentence()}." for one in found.controls)
    return said or "a decoding strategy by itself has none."


def _is_share(row: Any) -> bool:
    return row.unit in ("share", "fraction")


def _value(row: Any, value: float) -> str:
    return percent(value) if _is_share(row) else number(value)
