"""The part of Steering that evaluates: a task file, all its items plain, steered and under random controls."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import streamlit as st

from app import charts, live, ui
from app.formats import number, percent, plural
from probes.errors import ProbeError
from probes.interventions import Spec
from probes.sample import sample_path

MEMORY = "_steering_eval"
SEEDS = 3
SHARES = ("exact match", "accuracy", "choice")


def section(path: str, specs: list[Spec]) -> None:
    """Choose tasks, run, and see each measure with its interval beside the random controls."""
    ui.section(
        "Does it hold over many prompts?",
        "A task file asks the same of the plain model, of the steered one, and of random changes of the same size. "
        "Every difference has a 95 % interval over the items.",
    )
    with st.form("steering_eval", border=False):
        left, middle, right = st.columns([0.5, 0.25, 0.25], vertical_alignment="bottom")
        with left:
            chosen = st.selectbox("Tasks", _known(), key="eval_tasks", format_func=lambda name: name or "my own")
            upload = st.file_uploader("or a file of yours (JSONL with targets)", type=["jsonl"], key="eval_upload")
        with middle:
            limit = st.number_input("Items at most", 4, 2000, 60, key="eval_limit")
        with right:
            wanted = st.form_submit_button("Evaluate", disabled=not specs, icon=":material/checklist:")
    if wanted:
        with _tasks(chosen, upload) as tasks:
            _evaluate(path, tasks, specs, int(limit))
    found = st.session_state.get(MEMORY)
    if found is not None:
        _show(found)


def _known() -> list[str]:
    folder = sample_path() / "tasks"
    return sorted(file.stem for file in folder.glob("*.jsonl")) or [""]


@contextlib.contextmanager
def _tasks(chosen: str, upload: Any) -> Iterator[Path]:
    if upload is None:
        yield sample_path() / "tasks" / f"{chosen}.jsonl"
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tasks.jsonl"
        path.write_bytes(upload.getvalue())
        yield path


def _evaluate(path: str, tasks: Path, specs: list[Spec], limit: int) -> None:
    from probes.evaluation import Arm, evaluate

    bar = st.progress(0.0, "waiting for the model …")

    def progress(done: int, total: int, arm: str) -> None:
        bar.progress(done / max(1, total), f"{done} of {total} batches{f': {arm}' if arm else ''}"[:120])

    def waits(ahead: int) -> None:
        bar.progress(0.0, f"{plural(ahead, 'person', 'people')} before you")

    try:
        with live.models().use(path, waits) as (model, tokenizer):
            st.session_state[MEMORY] = evaluate(
                model,
                tasks,
                [Arm("steered", tuple(specs))],
                tokenizer=tokenizer,
                control_seeds=SEEDS,
                limit=limit,
                progress=progress,
            )
    except ProbeError as error:
        st.session_state.pop(MEMORY, None)
        ui.problem(str(error))
    bar.empty()


def _show(found: Any) -> None:
    frame = found.frame()
    steered = frame[frame["arm"] != "baseline"]
    for (task, measure), rows in steered.groupby(["task", "measure"], sort=False):
        row = rows.iloc[0]
        ui.html(f'<h4 class="rw-measure">{_title(task, measure, row)}</h4>')
        if row["baseline"] == row["baseline"]:
            ui.quiet(_sentence(row))
    with st.expander("All measures"):
        st.dataframe(frame, hide_index=True)
    tested = steered.dropna(subset=["baseline"])
    for measure, rows in tested.groupby("measure", sort=False):
        ui.chart_block(
            charts.effect_bars(rows.assign(arm=rows["task"]), ui.theme(), f"{measure} ({rows['unit'].iloc[0]})"),
            name=f"effect-{measure}".replace(" ", "-"),
            alt=" ".join(_sentence(row) for _, row in rows.iterrows()),
            meanings=[
                ("Interval", "95 %, bootstrap over items."),
                ("Control", "as many random experts, or random choice."),
            ],
            rows=rows,
        )


def _title(task: str, measure: str, row: Any) -> str:
    from html import escape

    return f"{escape(str(task))} · {escape(str(measure))}: {_value(row, row['value'])} (n = {int(row['n'])})"


def _sentence(row: Any) -> str:
    text = (
        f"baseline {_value(row, row['baseline'])}; difference {number(row['difference'])} "
        f"(95 % interval {number(row['difference_low'])} to {number(row['difference_high'])}"
    )
    text += f", corrected p = {number(row['p_holm'])})" if row["p_holm"] == row["p_holm"] else ")"
    if row["control"] == row["control"] and row["controls"]:
        text += f"; {plural(int(row['controls']), 'random control')} {_value(row, row['control'])}"
    return text


def _value(row: Any, value: float) -> str:
    return percent(value) if row["unit"] in ("share", "fraction") else f"{number(value)} {row['unit']}"
