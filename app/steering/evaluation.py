"""The part of Steering that evaluates: a task file, all its items plain, steered and under controls."""

from __future__ import annotations

import contextlib
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from app import ui
from app.formats import plural
from app.sections.steering_effects import effects_section
from app.sections.steering_take_away import typed_specs
from app.steering import live, strategy_form
from probes.errors import ProbeError
from probes.interventions import Spec
from probes.sample import sample_path

if TYPE_CHECKING:
    from probes.evaluation import Arm

MEMORY = "_steering_eval"
SEEDS = 3


@ui.part  # what is chosen here changes nothing above
def section(path: str, specs: Sequence[Spec]) -> None:
    """Choose tasks, run, and see each measure with its interval beside the controls."""
    ui.section(
        "Does it hold over many prompts?",
        "A task file asks the same of the plain model, of the steered one, and of controls: the same change to other "
        "experts that take the same share of these tokens (or random choice, where no expert is named). "
        "Every difference has a 95 % interval over the items. A decoding strategy can be tried here as well, by itself "
        "or together with the interventions.",
    )
    chosen, upload, limit, strategy = _choice()
    typed = strategy_form.form(strategy)
    if st.button("Evaluate", disabled=not specs and typed is None, icon=":material/checklist:"):
        with _tasks(chosen, upload) as tasks:
            _evaluate(path, tasks, specs, (strategy, typed), limit)
    found = st.session_state.get(MEMORY)
    if found is not None:
        effects_section(*found)


def _choice() -> tuple[str, Any, int, Any]:
    first, second, third = st.columns([0.36, 0.2, 0.44])
    with first:
        chosen = st.selectbox("Tasks", _known(), key="eval_tasks", format_func=lambda name: name or "my own")
    with second:
        limit = st.number_input("Max items", 4, 2000, 60, key="eval_limit")
    with third:
        strategy = strategy_form.pick()
    with st.expander("Tasks of my own", icon=":material/upload:"):
        upload = st.file_uploader("JSONL with targets or choices", type=["jsonl"], key="eval_upload")
    return chosen, upload, int(limit), strategy


def _known() -> list[str]:
    folder = sample_path() / "tasks"
    return sorted(file.stem for file in folder.glob("*.jsonl")) or [""]


@contextlib.contextmanager
def _tasks(chosen: str, upload: Any) -> Iterator[Path]:
    if upload is None:
        yield sample_path() / "tasks" / f"{chosen}.jsonl"
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tasks.jsonl"  # and not the name it had elsewhere, which may be anything
        path.write_bytes(upload.getvalue())
        yield path


def _evaluate(path: str, tasks: Path, specs: Sequence[Spec], strategy: tuple[Any, Any], limit: int) -> None:
    from probes.evaluation import Arm, evaluate

    bar = st.progress(0.0, "waiting for the model …")

    def progress(done: int, total: int, arm: str) -> None:
        bar.progress(done / max(1, total), f"{done} of {total} batches{f': {arm}' if arm else ''}"[:120])

    def waits(ahead: int) -> None:
        bar.progress(0.0, f"{plural(ahead, 'person', 'people')} before you")

    st.session_state.pop(MEMORY, None)
    try:
        arm = Arm("steered", tuple(specs), strategy_form.plan(*strategy, tasks))
        with live.models().use(path, waits) as (model, tokenizer):
            found = evaluate(
                model, tasks, [arm], tokenizer=tokenizer, control_seeds=SEEDS, limit=limit, progress=progress
            )
        st.session_state[MEMORY] = (found, command(path, tasks, arm, limit))
    except ProbeError as error:
        ui.problem(str(error))
    bar.empty()


def command(path: str, tasks: Path, arm: Arm, limit: int) -> str:
    """The `probe eval` that does the same; tasks of one's own lie where one is."""
    parts = [*typed_specs(arm.specs, together=True), *([str(arm.strategy)] if arm.strategy is not None else [])]
    asked = ["probe", "eval", path, "--tasks", str(tasks), "--intervention", " + ".join(parts)]
    words = shlex.join([*asked, "--limit", str(limit), "--control-seeds", str(SEEDS)])
    return words if tasks.is_relative_to(sample_path()) else words.replace(f"{tasks.parent}/", "")
