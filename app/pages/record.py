"""Record: start `probe record` from the browser, watch it, end it, open what it wrote."""

from __future__ import annotations

import shlex
import tempfile
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import streamlit as st

from app import options, recorder, state, ui
from app.components.copyable import copyable
from app.components.token_text import legible
from app.formats import count, plural
from app.pages import Here, Page
from probes.errors import ProbeError
from probes.prompts import Prompts, read_prompts
from probes.recording.options import DEFAULT_CAPTURE, LEVELS
from probes.sample import sample_path

PAGE = Page(
    name="record", title="Record", icon=":material/radio_button_checked:", section="Data", order=1, needs_trace=False
)
SECONDS = 1.0  # between two looks at a recording
SHOWN = 3  # bad lines named
KEPT = 6  # recordings of a visitor that the address remembers
FORM = "record_form"


def render(here: Here | None) -> None:
    ui.heading(
        "a new trace",
        "Record",
        "Run prompts through a mixture-of-experts model on this machine and keep what its routers did.",
    )
    if not options.given().may_record:
        ui.note(
            "Recording is switched off here, because others can reach this dashboard. "
            "Whoever starts it can allow it: probe app … --record-to FOLDER"
        )
        return
    job = recorder.current(state.read("job"))
    if job is None:
        _form(here)
    elif job.running:
        _watch(job)
    else:
        _ended(job)


def _form(here: Here | None) -> None:
    left, right = st.columns([0.62, 0.38], gap="large")
    with left:
        upload = st.file_uploader("Prompts", type=[suffix[1:] for suffix in recorder.SUFFIXES], key="record_prompts")
        found = _read(upload)
        with st.form(FORM, border=False):
            model = st.text_input("Model, a folder on this machine", _known_model(here), key="record_model")
            capture = st.multiselect("Keep", list(LEVELS), list(DEFAULT_CAPTURE), key="record_keep", help=_levels())
            with st.container(horizontal=True):
                limit = st.number_input("Max sequences", 1, None, None, key="record_limit", placeholder="all")
                length = st.number_input(
                    "Max tokens per sequence", 1, None, None, key="record_length", placeholder="all"
                )
                new = st.number_input("Tokens to generate", 0, 4096, 0, key="record_new")
            name = st.text_input("Name of the trace", "recording", key="record_name", max_chars=80)
            pressed = st.form_submit_button("Start", type="primary", icon=":material/play_arrow:", key="record_start")
    with right:
        _explained()
    if pressed:
        words = _words(capture, limit, length, new)
        _start(model, upload, found, name, words)


def _read(upload: Any) -> Prompts | None:
    """The prompts of an upload, read once as the recording will read them; says what is in them."""
    if upload is None:
        ui.quiet("JSONL, Parquet or text; other people cannot see what you upload.")
        return None
    try:
        found = _prompts(upload.getvalue(), upload.name)
    except ProbeError as error:
        ui.problem(str(error))
        return None
    labels = {prompt.label for prompt in found.good if prompt.label}
    ui.quiet(f"{plural(len(found.good), 'prompt')}, {plural(len(labels), 'label')}")
    if found.bad:
        named = "\n".join(str(bad) for bad in found.bad[:SHOWN])
        more = f"\n… and {count(len(found.bad) - SHOWN)} more" if len(found.bad) > SHOWN else ""
        ui.problem(f"{plural(len(found.bad), 'prompt')} will be left out:\n{named}{more}")
    return found


def _prompts(content: bytes, name: str) -> Prompts:
    with tempfile.TemporaryDirectory(prefix="router-upload-") as folder:
        file = Path(folder) / recorder.plain_name(name)
        file.write_bytes(content)
        try:
            found = read_prompts(file)
        except ProbeError as error:
            raise ProbeError(str(error).replace(f"{folder}/", "")) from error
    return Prompts(found.good, [replace(bad, source=bad.source.replace(f"{folder}/", "")) for bad in found.bad])


def _known_model(here: Here | None) -> str:
    """The model of the run that is shown, where it is a folder here; else the sample model."""
    known = str(here.run["model"]) if here is not None else ""
    if Path(known).is_absolute() and (Path(known) / "config.json").is_file():
        return known
    sample = (sample_path() / "model").resolve()  # relative where the dashboard was started beside it
    return str(sample) if (sample / "config.json").is_file() else ""


def _levels() -> str:
    return "; ".join(f"{name}: {what}" for name, what in LEVELS.items())


def _words(capture: list[str], limit: int | None, length: int | None, new: int) -> list[str]:
    words = ["--capture", ",".join(level for level in LEVELS if level in {"ids", *capture})]
    for flag, value in (("--limit", limit), ("--max-length", length), ("--max-new-tokens", new)):
        words += [flag, str(int(value))] if value else []
    return words


def _start(model: str, upload: Any, found: Prompts | None, name: str, words: list[str]) -> None:
    try:
        folder = recorder.check_model(model)
        if upload is None or found is None:
            raise ProbeError("upload a file of prompts that can be read")
        place = options.given().record_to
        job = recorder.start(folder, upload.getvalue(), upload.name, name.strip(), place, words)
    except ProbeError as error:
        ui.problem(str(error))
        return
    before = (state.read("job") or "").rpartition(",")[0]
    state.write(job=f"{before},{job.token}".strip(","))
    st.rerun()


def _explained() -> None:
    kept = options.given().record_to
    where = f"into {kept}" if kept else "into a temporary folder; probe app … --record-to FOLDER names one that stays"
    ui.definition(
        [
            ("Prompts", 'are JSONL, one object per line: {"text": "…"} or {"messages": […]}, optional id, label and '
             "metadata; or Parquet with these columns; or a .txt, one document."),
            ("Model", "is a folder with config.json and safetensors. Nothing is downloaded, and code that comes with a "
             "model is not run."),
            ("Keep", "decides what can be asked later: entropy needs logits, importance needs norms, clusters need "
             "moments."),
            ("The trace", f"is written {where}. Cancelling keeps what is recorded."),
        ]
    )  # fmt: skip


def _watch(job: recorder.Recording) -> None:
    @st.fragment(run_every=SECONDS)
    def look() -> None:
        if not job.running:
            st.rerun(scope="app")
        _shown(job)
        st.button("Cancel", icon=":material/stop:", key="record_cancel", on_click=job.cancel, disabled=job.cancelled,
                  help="As Ctrl-C does: what is recorded by then stays.")  # fmt: skip

    look()


def _shown(job: recorder.Recording) -> None:
    found = job.progress()
    title = "Ending …" if job.cancelled else "Recording" if found else "Loading the model"
    ui.section(title, str(job.trace))
    share = 0.0 if found is None else found.share
    st.progress(share, text=f"{found.done} of {found.total} tokens · {found.says}" if found else "no token yet")
    if found and found.kept:
        ui.html(f'<p class="rw-says">{_link(job, "Look at it while it grows")}</p>')
    _log(job)


ENDED = {
    "complete": ("Recorded", "Every prompt went through the model."),
    "left out": ("Recorded, but not all", "Some prompts were left out; the log names them."),
    "cancelled": ("Cancelled", "What was recorded by then is in the trace; probe record … --resume goes on with it."),
    "failed": ("Not recorded", "The last lines of the log say why."),
}
NOTHING_YET = ("Cancelled", "Nothing was recorded by then: the first batch of prompts was still on its way.")


def _ended(job: recorder.Recording) -> None:
    title, says = NOTHING_YET if job.cancelled and not job.trace.exists() else ENDED[job.outcome]
    ui.section(title, says)
    if job.trace.exists():
        ui.html(
            f'<p class="rw-says">{_link(job, f"Open {legible(job.trace.name)}")} '
            f"<small>{escape(legible(job.trace))}</small></p>"
        )
    _log(job)
    st.button("Record another", icon=":material/add:", key="record_again", on_click=_another)


def _another() -> None:
    """The form again; the address keeps the recordings there are, the newest ones."""
    tokens = [job.token for job in recorder.mine(state.read("job"))][-KEPT:]
    state.write(job=",".join([*tokens, ""]))


def _link(job: recorder.Recording, says: str) -> str:
    return ui.link("overview", says, trace=job.trace.name, run=None)


def _log(job: recorder.Recording) -> None:
    st.code("\n".join(job.log()[-20:]) or "…", language=None, wrap_lines=True)
    with st.expander("The command"):
        copyable(shlex.join(job.command), f"record_command_{job.token}")
