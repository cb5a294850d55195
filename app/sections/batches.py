"""The load that experts and devices see within a batch: the whole trace as one batch is more even than any pass."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app import data, state, ui, words
from app.formats import number, percent
from app.pages import Here

SIZES = (1, 8, 16, 64, 256, 1024)
DEVICES = (0, 2, 4, 8, 16, 32, 64, 128)


def batches_section(here: Here) -> None:
    """What a batch is made of, how many tokens it has, on how many devices the experts lie: each with its spread."""
    fewest = int(here.layers["num_experts"].min())
    size = state.pick("Tokens in a batch (decoding: sequences)", "batch", SIZES, default=64, kind="segmented")
    fitting = [n for n in DEVICES if n <= fewest]
    devices = state.pick("Devices", "devices", fitting, kind="segmented", shown=lambda n: str(n) if n else "none")
    found = data.analysis_or_why(here.trace, here.run_id, "batch_load", size=size, devices=devices)
    if isinstance(found, str):
        ui.note(found)
        return
    table = found.table if devices else found.table.loc[:, ~found.table.columns.str.startswith("device_")]
    command = f"probe analyze batch_load {here.trace.quoted} --size {size}"
    command += f" --devices {devices}" if devices else ""
    ui.section("And within a batch?", says(table, "device" if devices else "expert"))
    st.dataframe(table.drop(columns=["n_tokens", "missing_share"]), hide_index=True)
    ui.definition(
        [
            ("Batch", f"= what one pass holds: {'; '.join(dict.fromkeys(table['batch']))}."),
            ("p5, p95", "= 5 % of the batches lie below, 5 % above."),
            ("Overflow", "= assignments beyond C = ⌈k·T/E⌉ tokens per expert, T the batch's tokens (γ = 1)."),
            ("Empty", "where no batch of that kind can be filled."),
            ("From", f"= {words.sample(found.sample, command)}."),
        ]
    )


def says(table: pd.DataFrame, what: str) -> str:
    """The least even kind of batch in a sentence. `table`: as the metric `batch_load` gives it."""
    column = "device_max_over_mean" if what == "device" else "max_over_mean"
    known = table.dropna(subset=[column])
    if known.empty:
        return "No batch of this size can be filled: choose a smaller one."
    row = known.loc[known[column].idxmax()]
    return (
        f"Least even are batches of {row['batch']} in layer {int(row['layer'])}: the busiest {what} has "
        f"{number(row[column])} times the mean, averaged over {int(row['n_batches']):,} batches (90 % of them between "
        f"{number(row[f'{column}_p5'])} and {number(row[f'{column}_p95'])}); {percent(row['overflow_share'])} of the "
        "assignments do not fit at γ = 1."
    )
