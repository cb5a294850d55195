"""Tokens: the text as the model saw it, coloured by what a layer's router did; one token through all layers."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from app import charts, data, state, ui, words
from app.components import cells, token_table
from app.components.coloring import BY, colored
from app.components.token_strip import KEY, strip_data, token_strip
from app.components.token_text import legible
from app.formats import NOTHING, count, percent, plural
from app.pages import Here, Page

PAGE = Page(name="tokens", title="Tokens", icon=":material/text_fields:", section="Look", order=1)
WINDOW = 600  # tokens drawn at once; the arrow keys and the buttons go on to the next ones
NARROW = 4  # experts per token up to which the table leaves room for a chart beside it
FIRING = 12
FOUND = 100  # sequences offered at once; the search finds the others


def render(here: Here) -> None:
    ui.heading(
        here.where,
        "Tokens",
        "The text as the model saw it. Choose a layer to see which expert each token went to; "
        "click a token, or use the arrow keys, to follow it through all layers.",
    )
    sequence = _pick_sequence(here)
    if sequence is None:
        return
    layer, by, expert = _pick_view(here)
    beside = _pick_beside(here, layer)
    _strip_and_token(here, sequence, layer, by, expert, beside)
    if expert is not None:
        _firing(here, layer, expert)


def _pick_sequence(here: Here) -> dict[str, Any] | None:
    labels = data.ask(here.trace, "labels", here.run_id)
    words_column, label_column, sequence_column = st.columns([0.26, 0.2, 0.54])
    with words_column:
        words = state.search("Search", "search", placeholder="words, source or number")
    with label_column:
        label = _pick_label(labels)
    found = data.ask(here.trace, "sequences", here.run_id, words, label, FOUND)
    rows = {int(row["sequence_id"]): row for row in found.to_dict("records")}
    linked = state.read_int("sequence")
    if linked is not None and linked not in rows and not words and label is None:
        for row in data.ask(here.trace, "sequence", here.run_id, linked).to_dict("records"):
            rows[linked] = row
    if not rows:
        _nothing_found(here, words, label)
        return None
    with sequence_column:
        total = int(found["n_found"].iloc[0])
        title = f"Sequence ({count(total)} found{f', the first {FOUND} listed' if total > FOUND else ''})"
        shown = lambda number: _sequence_name(rows[number])  # noqa: E731
        chosen = state.pick(title, "sequence", list(rows), shown=shown, clears=("token",))
    return rows[chosen]


def _pick_label(labels: pd.DataFrame) -> str | None:
    if labels.empty:
        st.selectbox("Label", ["no labels"], disabled=True)
        return None
    sizes = dict(zip(labels["label"], labels["n_sequences"], strict=True))
    shown = lambda label: f"{label} ({count(sizes[label])})" if label else "all"  # noqa: E731
    return state.pick("Label", "label", ["", *sizes], shown=shown, clears=("sequence", "token")) or None


def _nothing_found(here: Here, words: str, label: str | None) -> None:
    if words or label:
        ui.note("No sequence has these words and this label. Change the search, or choose all labels.")
    elif here.recording:
        ui.note("No sequence has been recorded yet. The page fills by itself while the recording goes on.")
    else:
        ui.note("This run holds no sequences.")


def _sequence_name(row: dict[str, Any]) -> str:
    label = f"{row['label']} · " if _given(row["label"]) else ""
    beginning = legible(row["beginning"][:70]) if _given(row["beginning"]) else "text not kept"
    return f"{row['sequence_id']} · {label}{count(row['n_tokens'])} tokens · {beginning}"


def _pick_view(here: Here) -> tuple[int, str, int | None]:
    layer_column, by_column, expert_column = st.columns([0.16, 0.5, 0.34])
    layers = [int(layer) for layer in here.layers["layer"]]
    with layer_column:
        layer = state.pick("Layer", "layer", layers, default=layers[len(layers) // 2])
    with by_column:
        by = state.pick("Colour", "by", list(BY), kind="segmented", shown=lambda name: BY[name].title)
    experts = int(here.layers.set_index("layer")["num_experts"].loc[layer])
    with expert_column:
        shown = lambda expert: "all tokens" if expert == "" else f"tokens that chose expert {expert}"  # noqa: E731
        chosen = state.pick("Show", "expert", ["", *range(experts)], shown=shown)
    return layer, by, None if chosen == "" else int(chosen)


def _pick_beside(here: Here, layer: int) -> tuple[int, int] | None:
    """A second view of the same tokens: (run, layer), or None for a single one."""
    layers = [f"layer:{int(other)}" for other in here.layers["layer"] if other != layer]
    others = data.runs(here.trace)
    runs = [f"run:{int(run)}" for run in others["run_id"] if run != here.run_id]
    if not layers and not runs:
        return None
    names = {"": "nothing", **{name: name.replace(":", " ") for name in layers}}
    names |= {
        f"run:{int(row.run_id)}": f"run {row.run_id} · {legible(row.name)}" for row in others.itertuples(index=False)
    }
    column, _ = st.columns([0.3, 0.7])
    with column:
        chosen = state.pick(
            "Beside it", "beside", ["", *layers, *runs], shown=names.__getitem__,
            help="The same tokens once more: in another layer, or in another run of this trace.",
        )  # fmt: skip
    kind, _, value = chosen.partition(":")
    if not kind:
        return None
    return (here.run_id, int(value)) if kind == "layer" else (int(value), layer)


@ui.part
def _strip_and_token(
    here: Here, sequence: dict[str, Any], layer: int, by: str, expert: int | None, beside: tuple[int, int] | None
) -> None:
    number_ = int(sequence["sequence_id"])
    selected = state.read_int("token")
    first = _first_of_window(here, number_, selected)
    window = data.ask(here.trace, "tokens", here.run_id, number_, layer, first, WINDOW)
    if window.empty:
        ui.note("This sequence has no tokens in the trace.")
        return
    positions = window["position"]
    total = int(sequence["n_tokens"])
    views = [(here.run_id, layer, window)]
    if beside is not None:
        views.append((*beside, data.ask(here.trace, "tokens", beside[0], number_, beside[1], first, WINDOW)))
    for place, (column, (run, shown_layer, rows)) in enumerate(zip(st.columns(len(views)), views, strict=True)):
        with column:
            if len(views) > 1:
                ui.quiet(f"run {run} · layer {shown_layer}")
            _strip(
                here,
                rows,
                (run, number_, shown_layer, first, total),
                by,
                None if place and shown_layer != layer else expert,
                selected,
                place > 0,
            )
    if len(views) > 1:
        ui.quiet(words.beside(views[0][2], views[1][2], same_layer=beside is not None and beside[1] == layer))
    if total > WINDOW:
        _turn_page(first, len(window), total, int(positions.iloc[0]), int(positions.iloc[-1]))
    _one_token(here, number_, window, selected, total)
    if selected is not None and (window["position"] == selected).any():
        _logits(here, number_, selected, layer)


def _strip(
    here: Here,
    window: pd.DataFrame,
    where: tuple[int, int, int, int, int],
    by: str,
    expert: int | None,
    selected: int | None,
    second: bool,
) -> None:
    """One view of the tokens. `where`: run, sequence, layer, the first token drawn, the number of tokens."""
    run, sequence, layer, first, total = where
    if window.empty:
        ui.note(f"Run {run} has no tokens of sequence {sequence} here.")
        return
    layers = data.layers(here.trace, run).set_index("layer")["num_experts"]
    view = colored(window, by, int(layers.get(layer, layers.max())), ui.theme(), only=expert)
    ui.html(view.legend)
    token_strip(
        strip_data(
            view.tokens,
            selected,
            kind=view.kind,
            name=f"{here.trace.path}:{run}:{sequence}:{first}:{here.trace.changed_ns}",
            label=f"Sequence {sequence}, layer {layer}, tokens {first + 1} to {first + len(window)} of {total}",
            outside=_outside(window, first, total),
        ),
        on_select=lambda position: state.write(token=position),
        key=KEY if not second else f"{KEY}_beside",
    )


def _logits(here: Here, sequence: int, position: int, layer: int) -> None:
    """The chosen token's logits in the layer that is shown, against those of the experts it did not choose."""
    frame = data.ask(here.trace, "token_logits", here.run_id, sequence, position, layer)
    if frame.empty:
        return
    says = words.token_logits(frame, layer)
    ui.section(f"Its logits in layer {layer}", says)
    ui.chart_block(
        data.once(charts.logit_bars, frame, ui.theme()),
        name="token-logits",
        alt=f"Bars of the chosen token's logits over all experts of layer {layer}. {says}",
        meanings=[
            (
                "Logit",
                "= what the router gave the expert before scores were made of it; only differences mean anything.",
            ),
            ("Chosen", "= what was used. A family with a bias or groups may pass over a higher logit."),
        ],
        rows=frame,
    )


def _firing(here: Here, layer: int, expert: int) -> None:
    """Where an expert fires: the sequences with the largest share of tokens that chose it."""
    label = state.read("label")
    found = data.ask(here.trace, "firing_sequences", here.run_id, layer, expert, label, None, FIRING)
    ui.section(f"Where does expert {expert} of layer {layer} fire?", words.firing(found))
    if found.empty:
        return
    rows = [
        [
            cells.link("tokens", row.sequence_id, layer=layer, expert=expert, sequence=row.sequence_id),
            row.label if _given(row.label) else NOTHING,
            percent(row.n_fired / row.n_tokens),
            cells.bar(row.n_fired / row.n_tokens, wide=True),
            f"{count(row.n_fired)} of {count(row.n_tokens)}",
            legible(row.beginning[:90]) if _given(row.beginning) else "text not kept",
        ]
        for row in found.itertuples()
    ]
    ui.html(cells.table(["sequence", "label", "#of its tokens", "", "#tokens", "beginning"], rows))
    of = f"{plural(here.run['n_sequences'], 'sequence')} ({plural(here.run['n_tokens'], 'token')})"
    ui.quiet(f"The {count(len(found))} with the largest share, of all {of}.")


def _first_of_window(here: Here, sequence: int, selected: int | None) -> int:
    if not selected or selected < 0:
        return 0
    positions = data.ask(here.trace, "positions", here.run_id, sequence)["position"]
    return int(positions.searchsorted(min(selected, positions.max()))) // WINDOW * WINDOW if len(positions) else 0


def _outside(window: pd.DataFrame, first: int, total: int) -> tuple[int | None, int | None]:
    before = int(window["position"].iloc[0]) - 1 if first else None
    after = int(window["position"].iloc[-1]) + 1 if first + len(window) < total else None
    return before, after


def _turn_page(first: int, shown: int, total: int, first_position: int, last_position: int) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        back, on = partial(state.write, token=first_position - WINDOW), partial(state.write, token=last_position + 1)
        st.button("Earlier", icon=":material/chevron_left:", disabled=first == 0, on_click=back)
        st.button("Later", icon=":material/chevron_right:", disabled=first + shown >= total, on_click=on)
        ui.quiet(f"tokens {count(first + 1)} to {count(first + shown)} of {count(total)}")


def _one_token(here: Here, sequence: int, window: pd.DataFrame, selected: int | None, total: int) -> None:
    rows = window[window["position"] == selected] if selected is not None else window.iloc[:0]
    if rows.empty:
        ui.note("No token chosen. Click one above, or press Tab and use the arrow keys.")
        return
    token = rows.iloc[0]
    through = data.ask(here.trace, "token_layers", here.run_id, sequence, selected)
    through = here.layers[["layer", "num_experts"]].merge(through, on="layer", how="left")
    ui.html(token_table.token_heading(token, total))
    known, narrow = through["entropy"].notna().any(), int(here.layers["top_k"].max()) <= NARROW
    left, right = st.columns([0.66, 0.34], gap="medium") if known and narrow else (st.container(), st.container())
    with left:
        ui.html(token_table.layers_table(through))
        ui.data_buttons(f"token-{sequence}-{selected}", token_table.rows(through))
    if known:
        with right:
            _unsure(here, sequence, through)


def _unsure(here: Here, sequence: int, through: pd.DataFrame) -> None:
    """Where the routers were less or more sure about this token than about the rest of its sequence."""
    mean = data.ask(here.trace, "sequence_layers", here.run_id, sequence)
    frame = through[["layer", "entropy"]].rename(columns={"entropy": "value"})
    frame = frame.merge(mean[["layer", "entropy", "n"]].rename(columns={"entropy": "mean"}), on="layer", how="left")
    says = words.token_entropy(frame)
    figure = data.once(charts.token_curve, frame, ui.theme(), name="entropy (nats)")
    ui.chart(figure, "token-entropy", f"Routing entropy of the chosen token by layer. {says}")
    ui.definition([("Entropy", "H = −Σ p ln p over all experts of a layer: 0 = certain."), ("", says)])


def _given(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and np.isnan(value)) and value != ""
