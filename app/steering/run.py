"""One prompt through a live model: plainly, steered, and with random experts in the place of those asked for."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import streamlit as st

from app import served
from app.steering import live, side_view
from app.steering.memory import Outcome, Request

CONTROLS = 3  # random controls of the same size, beside what was asked for
DRAW_SECONDS = 0.08  # between two updates of the text that is being written


def run(request: Request, places: side_view.Places) -> Outcome:
    """The comparison and its controls, shown in `places` as they are written. ProbeError for what does not fit."""
    from probes.side_by_side import side_by_side

    given = (request.prompt, list(request.specs))
    with live.models().use(request.path, places.wait) as (model, tokenizer):
        places.start()
        found = side_by_side(model, tokenizer, *given, decoding=request.decoding, on_step=_now_and_then(places.show))
        beside: list[Any] = []
        for specs in (several := _controls(model, tokenizer, request)):
            places.say(f"random control {len(beside) + 1} of {len(several)}")
            beside.append(side_by_side(model, tokenizer, request.prompt, specs, decoding=request.decoding))
    return Outcome(request, found, tuple(beside))


def _controls(model: Any, tokenizer: Any, request: Request) -> list[Any]:
    """What the random controls do, each a list of specs."""
    from probes.evaluation.arms import Arm, check_arms, controls

    routers = check_arms([], model, tokenizer)
    return [arm.specs for arm in controls(Arm("asked", request.specs), routers, CONTROLS)]


def _now_and_then(show: Callable[[str, str], None]) -> Callable[[str, str], None]:
    """A token may take a millisecond; the browser is told less often."""
    drawn = 0.0

    def told(side: str, text: str) -> None:
        nonlocal drawn
        if time.monotonic() - drawn > DRAW_SECONDS:
            show(side, text)
            drawn = time.monotonic()

    return told


def record(request: Request) -> Path:
    """Both runs once more, into a trace that this visitor then finds among the others. ProbeError as above."""
    from probes.side_by_side import side_by_side

    file = served.new_trace("steered")
    with live.models().use(request.path) as (model, tokenizer), st.spinner("both runs are recorded …"):
        side_by_side(model, tokenizer, request.prompt, list(request.specs), decoding=request.decoding, trace=str(file))
    served.keep(file)
    return file
