"""What a run on Steering leaves to take along: the spec, the command that does the same, a trace of both runs."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import streamlit as st

from app import served, ui
from app.steering import run as steering_run
from app.steering.memory import Memory, Outcome, Request
from probes.errors import ProbeError
from probes.interventions import Spec

LONGEST = 2_000  # characters of a spec that are shown, or typed into a command; a longer one is a file
FILE = "interventions.json"


def take_away(outcome: Outcome, mine: Memory) -> None:
    """The interventions as a file, the command, everything as JSON, both runs as a trace."""
    with st.expander("Export: the spec, the command, both runs"):
        _spec(outcome.found.interventions)
        drawn = outcome.request.decoding.sample
        ui.quiet(f"The same on the command line{'' if drawn else '; with --out TRACE it keeps both runs in a trace'}:")
        st.code(command(outcome.request), language="bash", wrap_lines=True)
        with st.container(horizontal=True):
            st.download_button(
                "Everything as JSON", lambda: json.dumps(outcome.found.as_dict(), indent=1).encode(),
                "steering.json", "application/json", icon=":material/download:", on_click="ignore",
            )  # fmt: skip
            why = "a drawn text cannot be recorded: a recording writes the most likely tokens" if drawn else None
            done = bool(mine.kept) or drawn
            if st.button("Keep both runs in a trace", icon=":material/save:", disabled=done, help=why):
                _keep(outcome.request, mine)
        if mine.kept:
            _kept(mine.kept)


def _spec(interventions: list[dict[str, Any]]) -> None:
    ui.quiet("The interventions, as a file for --intervention:")
    text = json.dumps(interventions, indent=1)
    shown = text if len(text) <= LONGEST else f"{text[:LONGEST]}\n…"
    st.code(shown, language="json", height=min(320, 56 + 24 * shown.count("\n")))
    file_button(text, "steering_spec")


def file_button(text: str, key: str) -> None:
    """The file that commands name where specs are too long to type."""
    st.download_button(
        FILE, text.encode, FILE, "application/json", key=key, icon=":material/download:", on_click="ignore"
    )


def command(request: Request) -> str:
    """The `probe steer` that does the same; specs too long to type are taken from the file."""
    words = ["probe", "steer", request.path, "--prompt", request.prompt]
    words += [word for text in typed_specs(request.specs) for word in ("--intervention", text)]
    words += ["--max-new-tokens", str(request.decoding.max_new_tokens)]
    words += [word for text in request.decoding.stop for word in ("--stop", text.replace("\n", "\\n"))]
    if request.decoding.sample:
        drawn = {"--temperature": "temperature", "--top-p": "top_p", "--seed": "seed"}
        words += [word for flag, name in drawn.items() for word in (flag, str(getattr(request.decoding, name)))]
    return shlex.join(words)


def typed_specs(specs: Sequence[Spec], together: bool = False) -> list[str]:
    """Specs as a command takes them; the file in place of those too long to type.

    together: joined by plus signs, where only the inline form can stand.
    """
    texts = [str(spec) for spec in specs]
    too_long = sum(map(len, texts)) > LONGEST or (together and any(text.startswith("{") for text in texts))
    return [FILE] if too_long else texts


def _keep(request: Request, mine: Memory) -> None:
    try:
        mine.kept = steering_run.record(request)
    except ProbeError as error:
        ui.problem(str(error))
        return
    st.rerun()  # the list of traces in the sidebar is one longer


def _kept(file: Path) -> None:
    name = served.short(str(file), served.traces())
    link = ui.link("compare", "compare the two runs", trace=name, run=2)
    ui.html(f'<p class="rw-says">Kept as {ui.strong(name)}: {link}</p>')
    st.download_button(
        "The trace", lambda: file.read_bytes(), file.name, "application/octet-stream",
        key="steering_trace", icon=":material/download:", on_click="ignore",
    )  # fmt: skip
