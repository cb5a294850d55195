"""What came of a run on Steering: both texts, the opinion of each token, the experts, each beside controls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from app import charts, ui, words
from app.formats import control_name, number, percent, plural
from app.sections.steering_take_away import take_away
from app.steering import side_view
from app.steering.memory import Memory, Outcome


def result_section(outcome: Outcome, mine: Memory) -> None:
    """From the two texts down to single experts; last, how to take it all away."""
    found, controls = outcome.found, list(outcome.controls)
    ui.section("What does it write?", side_view.says(found))
    ui.html(side_view.texts(found))
    _numbers(found, controls, outcome.kind)
    _predictions(found)
    _layers(found, controls, outcome)
    _experts(found)
    take_away(outcome, mine)


def _numbers(found: Any, controls: Sequence[Any], kind: str) -> None:
    def beside(value: Callable[[Any], float | None], shown: Any = number) -> str:
        known = [v for v in map(value, controls) if v is not None]
        return f"{control_name(kind)} {shown(sum(known) / len(known))} (n = {len(known)})" if known else "no control"

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


def _predictions(found: Any) -> None:
    tokens = side_view.token_table(found)
    ui.section(
        "How do its predictions change?",
        "Both runs read the prompt and the baseline's text token by token; KL is the divergence of their "
        "next-token distributions.",
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


def _layers(found: Any, controls: list[Any], outcome: Outcome) -> None:
    layers = side_view.layer_table(found, controls)
    says = side_view.rerouted(found, controls, outcome.kind)
    ui.section("Who was chosen instead?", says)
    ui.chart_block(
        charts.changed_bars(layers, ui.theme()),
        name="steering-layers",
        alt=f"Share of tokens with another set of experts, per layer. {says}",
        meanings=[
            ("Rerouted", "the set of chosen experts differs between the two runs, for the same token and layer."),
            ("Random control", f"the mean of {plural(len(controls), 'run')}. {outcome.said}."),
        ],
        rows=layers,
    )


def _experts(found: Any) -> None:
    experts = pd.DataFrame(
        [{"layer": e.layer, "expert": e.expert, "baseline": e.baseline, "steered": e.steered, "change": e.change}
         for e in found.experts]
    )  # fmt: skip
    if not experts.empty:
        with st.expander(f"Experts chosen more or less often ({len(experts)})"):
            st.dataframe(experts, hide_index=True, height=min(380, 38 * (len(experts) + 1)))
