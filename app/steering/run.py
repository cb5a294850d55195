"""One prompt through a live model: plainly, steered, and with others in the place of the experts asked for."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st

from app import served
from app.steering import live, side_view
from app.steering.memory import Outcome, Request

CONTROLS = 3  # of the same load, beside what was asked for
DRAW_SECONDS = 0.08  # between two updates of the text that is being written


def run(request: Request, places: side_view.Places) -> Outcome:
    """The comparison and its controls, shown in `places` as they are written. ProbeError for what does not fit."""
    from probes.side_by_side import side_by_side

    given = (request.prompt, list(request.specs))
    with live.models().use(request.path, places.wait) as (model, tokenizer):
        places.start()
        found = side_by_side(model, tokenizer, *given, decoding=request.decoding, on_step=_now_and_then(places.show))
        beside: list[Any] = []
        controls = _controls(model, tokenizer, request, found)
        for arm in controls.arms:
            places.say(f"random control {len(beside) + 1} of {len(controls.arms)}")
            beside.append(side_by_side(model, tokenizer, request.prompt, arm.specs, decoding=request.decoding))
    return Outcome(request, found, tuple(beside), controls.kind, controls.sentence())


def _controls(model: Any, tokenizer: Any, request: Request, found: Any) -> Any:
    """Controls of the same load over the tokens of the baseline: a `Matched`."""
    from probes.evaluation.arms import Arm, check_arms
    from probes.evaluation.controlled import Ask, Matched, controls_of
    from probes.evaluation.loads import of_texts

    arm, routers = Arm("this intervention", request.specs), check_arms([], model, tokenizer)
    ids = np.array([token.token_id for token in found.tokens])
    start = sum(not token.generated for token in found.tokens)
    loads = of_texts(model, tokenizer, {"": [(ids, start)]}, [arm], routers)
    matched = controls_of([arm], [""], routers, Ask(CONTROLS), loads, model, tokenizer)
    return matched[0] if matched else Matched(arm.name, None, "", [])


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
