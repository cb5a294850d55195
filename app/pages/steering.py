"""Steering: change the routing of a running model, see what it writes and what it thinks, next to a random control."""

from __future__ import annotations

import shlex
import time
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from app import charts, live, options, served, side_view, spec_form, state, steering_eval, ui, words
from app.formats import number, percent, plural
from app.pages import Here, Page
from probes.errors import ProbeError, UsageError
from probes.generation import Decoding
from probes.interventions import Spec, intervention

PAGE = Page(name="steering", title="Steering", icon=":material/alt_route:", section="Change", order=1)
MEMORY = "_steering"
CONTROLS = 3  # random controls of the same size, beside what was asked for
DRAW_SECONDS = 0.08  # between two updates of the text that is being written
LONGEST_PROMPT = 20_000


def render(here: Here) -> None:
    ui.heading(
        f"{here.trace.name}  ·  run {here.run_id}  ·  {here.run['name']}",
        "Steering",
        "Change which experts a model uses while it runs, and see what that does: the text it writes, what it thinks "
        "of the same text, and how much of that any random change of the same size would do.",
    )
    path = _model(here)
    if path is None:
        return
    memory = _memory()
    _adopt(memory)
    left, right = st.columns([0.5, 0.5], gap="large")
    with left:
        prompt, decoding = _prompt(here)
    with right:
        _interventions(here, memory)
    _run(path, prompt, decoding, memory)
    if memory["result"] is not None:
        _result(path, memory)
    steering_eval.section(path, memory["specs"])


def _model(here: Here) -> str | None:
    """The model to steer; where there is none, the page says what to do."""
    if not options.given().may_steer:
        ui.note(
            "Steering is switched off here, because others can reach this dashboard. "
            "Whoever starts it can allow it: probe app … --model FOLDER"
        )
        return None
    known = live.models_of(here)
    if not known:
        ui.note(
            f"The model of this run, {here.run['model']}, is not a folder on this machine. Start the dashboard with "
            f"the place where it is: probe app {here.trace.name} --model FOLDER"
        )
        return None
    return known[0] if len(known) == 1 else state.pick("Model", "model", known, shown=lambda path: Path(path).name)


def _memory() -> dict[str, Any]:
    """What this visitor asked for and got: kept in the session, seen by no one else."""
    fresh: dict[str, Any] = {
        "specs": [],
        "address": None,
        "problem": "",
        "result": None,
        "controls": [],
        "asked": None,
        "kept": None,
    }
    return st.session_state.setdefault(MEMORY, fresh)


def _adopt(memory: dict[str, Any]) -> None:
    """A new list in the address (a link from another page) takes the place of the one at hand."""
    address = st.query_params.get("spec", "")
    if address != memory["address"]:
        memory["address"] = address
        if address or not memory["specs"]:
            memory["specs"], memory["problem"] = spec_form.read({"spec": address})


def _keep(memory: dict[str, Any], specs: list[Spec]) -> None:
    memory["specs"], memory["problem"] = specs, ""
    memory["address"] = spec_form.written(specs)
    if memory["address"]:
        st.query_params["spec"] = memory["address"]
    elif "spec" in st.query_params:
        del st.query_params["spec"]


def _prompt(here: Here) -> tuple[str, Decoding]:
    ui.section("What is it to read?")
    given = side_view.start_of(here, state.read_int("sequence"))
    key = f"steering_prompt_{state.read_int('sequence')}"
    prompt = st.text_area("Prompt", given, height=130, max_chars=LONGEST_PROMPT, key=key)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        new_tokens = st.number_input("New tokens at most", 1, 512, 40, key="steering_new", width=220)
        line = st.checkbox("Stop at the end of a line", key="steering_line")
    return prompt, Decoding(int(new_tokens), ("\n",) if line else ())


def _interventions(here: Here, memory: dict[str, Any]) -> None:
    ui.section("What is to be changed?")
    if memory["problem"]:
        ui.problem(f"The link names an intervention that cannot be read: {memory['problem']}")
    for place, spec in enumerate(memory["specs"]):
        _row(memory, place, spec)
    if not memory["specs"]:
        ui.note("Nothing yet: the model would run as it is. Add an intervention below, or come from an expert's card.")
    with st.popover("Add an intervention", icon=":material/add:"):
        added = spec_form.form(len(here.layers))
    if isinstance(added, UsageError):
        ui.problem(str(added))
    elif added is not None:
        _keep(memory, [*memory["specs"], added])
        st.rerun()


def _row(memory: dict[str, Any], place: int, spec: Spec) -> None:
    text, up, gone = st.columns([0.76, 0.12, 0.12], vertical_alignment="center")
    with text:
        declared = intervention(spec.name)
        ui.html(
            f'<div class="rw-spec"><b>{escape(declared.title)}</b> <code>{escape(str(spec)[:200])}</code>'
            f"<small>{escape(declared.does)}</small></div>"
        )
    specs = memory["specs"]
    with up:
        earlier = [*specs[: place - 1], spec, specs[place - 1], *specs[place + 1 :]] if place else specs
        st.button(
            "Earlier", key=f"spec_up_{place}", icon=":material/arrow_upward:", disabled=place == 0,
            on_click=_keep, args=(memory, earlier), help="Interventions of one kind act in this order.",
        )  # fmt: skip
    with gone:
        rest = [*specs[:place], *specs[place + 1 :]]
        st.button("Remove", key=f"spec_gone_{place}", icon=":material/close:", on_click=_keep, args=(memory, rest))


def _run(path: str, prompt: str, decoding: Decoding, memory: dict[str, Any]) -> None:
    asked = (path, prompt, decoding, tuple(map(str, memory["specs"])))
    with st.container(horizontal=True, vertical_alignment="center"):
        wanted = st.button("Run", type="primary", icon=":material/play_arrow:", disabled=not memory["specs"])
        ui.quiet(_model_state(path))
    if not wanted:
        if memory["result"] is not None and memory["asked"] != asked:
            ui.quiet("What is below belongs to the last run; something above has changed since.")
        return
    places = side_view.places()
    try:
        memory["result"], memory["controls"] = _both(path, prompt, decoding, memory["specs"], places)
        memory["asked"], memory["kept"] = asked, None
    except ProbeError as error:
        memory["result"] = None
        places.clear()
        ui.problem(str(error))
        return
    places.clear()


def _model_state(path: str) -> str:
    loaded, used, waiting = live.models().state(path)
    queue = f"; {plural(waiting, 'other')} waiting" if waiting else ""
    busy = "in use by someone else" + queue if used else "in memory" if loaded else "loaded on the first run"
    return f"{Path(path).name}: {busy}"


def _both(path: str, prompt: str, decoding: Decoding, specs: list[Spec], places: Any) -> tuple[Any, list[Any]]:
    """The comparison, and the same with random experts (or random choice) in the place of what was asked."""
    from probes.evaluation.arms import Arm, check_arms, controls
    from probes.side_by_side import side_by_side

    drawn = 0.0

    def show(side: str, text: str) -> None:
        nonlocal drawn
        if time.monotonic() - drawn > DRAW_SECONDS:
            places.show(side, text)
            drawn = time.monotonic()

    with live.models().use(path, lambda ahead: places.wait(ahead)) as (model, tokenizer):
        places.start()
        found = side_by_side(model, tokenizer, prompt, specs, decoding=decoding, on_step=show)
        routers = check_arms([], model, tokenizer)
        arms = controls(Arm("asked", tuple(specs)), routers, CONTROLS)
        beside = []
        for number_, arm in enumerate(arms, 1):
            places.say(f"random control {number_} of {len(arms)}")
            beside.append(side_by_side(model, tokenizer, prompt, arm.specs, decoding=decoding))
    return found, beside


def _result(path: str, memory: dict[str, Any]) -> None:
    found, controls = memory["result"], memory["controls"]
    ui.section("What does it write?", side_view.says(found))
    ui.html(side_view.texts(found))
    _numbers(found, controls)
    tokens = side_view.token_table(found)
    ui.section(
        "What does it think of the same text?",
        "Both runs read the prompt and the baseline's text token by token; KL is how far their opinions of the next "
        "token are apart.",
    )
    ui.chart_block(
        charts.kl_bars(tokens, ui.theme()),
        name="steering-kl",
        alt=f"KL divergence from the baseline per token. {words.largest(tokens, 'kl')}",
        meanings=[
            ("KL", "Σ p ln(p / q) in nats over the vocabulary, p of the baseline, q of the steered model."),
            ("0", "the same opinion of the next token."),
        ],
        rows=tokens,
    )
    layers = side_view.layer_table(found, controls)
    ui.section("Who was chosen instead?", side_view.rerouted(found, controls))
    ui.chart_block(
        charts.changed_bars(layers, ui.theme()),
        name="steering-layers",
        alt=f"Share of tokens with another set of experts, per layer. {side_view.rerouted(found, controls)}",
        meanings=[
            ("Rerouted", "the set of chosen experts differs between the two runs, for the same token and layer."),
            ("Random control", f"the mean of {len(controls)} runs with as many random experts in the same layers."),
        ],
        rows=layers,
    )
    experts = pd.DataFrame(
        [{"layer": e.layer, "expert": e.expert, "baseline": e.baseline, "steered": e.steered, "change": e.change}
         for e in found.experts]
    )  # fmt: skip
    if not experts.empty:
        with st.expander(f"Experts chosen more or less often ({len(experts)})"):
            st.dataframe(experts, hide_index=True, height=min(380, 38 * (len(experts) + 1)))
    _take_away(path, memory)


def _numbers(found: Any, controls: list[Any]) -> None:
    def beside(value: Any, shown: Any = number) -> str:
        known = [v for v in map(value, controls) if v is not None]
        return f"random control {shown(sum(known) / len(known))} (n = {len(known)})" if known else "no control"

    written = [t for t in found.tokens if t.generated]
    ui.tiles(
        [
            ("Tokens rerouted", percent(found.changed_share), beside(lambda c: c.changed_share, percent)),
            ("KL, answer", number(found.mean_kl(True)), f"nats per token; {beside(lambda c: c.mean_kl(True))}"),
            ("KL, prompt", number(found.mean_kl(False)), f"nats per token; {beside(lambda c: c.mean_kl(False))}"),
            ("ln p of the answer", number(found.logprob_change(True)), f"change over {plural(len(written), 'token')}"),
            ("Length", f"{found.baseline.length} → {found.steered.length}", "tokens written"),
            ("Parts that differ", str(len(found.differences)), "between the two texts"),
        ]
    )


def _take_away(path: str, memory: dict[str, Any]) -> None:
    _, prompt, decoding, texts = memory["asked"]
    specs = memory["result"].interventions
    with st.expander("Take it away: the spec, the command, both runs"):
        import json

        ui.quiet("The interventions, as a file for `--intervention`:")
        st.code(json.dumps(specs, indent=1), language="json")
        ui.quiet("The same on the command line; with --out TRACE it keeps both runs in a trace:")
        st.code(_command(path, prompt, decoding, texts), language="bash", wrap_lines=True)
        with st.container(horizontal=True):
            st.download_button(
                "Everything as JSON", lambda: json.dumps(memory["result"].as_dict(), indent=1).encode(),
                "steering.json", "application/json", icon=":material/download:", on_click="ignore",
            )  # fmt: skip
            if st.button("Keep both runs in a trace", icon=":material/save:", disabled=bool(memory["kept"])):
                memory["kept"] = _keep_runs(path, prompt, decoding, texts)
                if memory["kept"]:
                    st.rerun()  # the list of traces in the sidebar is one longer
        if memory["kept"]:
            _kept(memory["kept"])


def _command(path: str, prompt: str, decoding: Decoding, specs: tuple[str, ...]) -> str:
    words = ["probe", "steer", path, "--prompt", prompt]
    words += [word for spec in specs for word in ("--intervention", spec)]
    words += ["--max-new-tokens", str(decoding.max_new_tokens)]
    words += [word for text in decoding.stop for word in ("--stop", text.replace("\n", "\\n"))]
    return shlex.join(words)


def _keep_runs(path: str, prompt: str, decoding: Decoding, specs: tuple[str, ...]) -> Path | None:
    """Both once more, recorded into a trace of their own, which this visitor then finds among the others."""
    from probes.side_by_side import side_by_side

    file = served.new_trace("steered")
    try:
        with live.models().use(path) as (model, tokenizer), st.spinner("both runs are recorded …"):
            side_by_side(model, tokenizer, prompt, list(specs), decoding=decoding, trace=str(file))
    except ProbeError as error:
        ui.problem(str(error))
        return None
    served.keep(file)
    return file


def _kept(file: Path) -> None:
    name = served.short(str(file), served.traces())
    link = ui.link("compare", "compare the two runs", trace=name, run=2)
    ui.html(f'<p class="rw-says">Kept as {ui.strong(name)}: {link}</p>')
    st.download_button(
        "The trace", lambda: file.read_bytes(), file.name, "application/octet-stream",
        key="steering_trace", icon=":material/download:", on_click="ignore",
    )  # fmt: skip
