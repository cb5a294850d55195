"""What is called largest, least or none is of all tokens: the same on the command line and where a sample is read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from app.overview_facts import _find
from app.trace_file import identify
from probes.analysis import analyze
from probes.cli.main import main
from probes.findings import facts, overview
from probes.ingest import import_npz
from store.trace import open_trace

SEQUENCES, LENGTH, LAYERS, EXPERTS = 40, 20, 4, 8


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each sequence has one token less certain, and one output larger, than all before it."""
    path = tmp_path_factory.mktemp("extremes") / "t.duckdb"
    rng = np.random.default_rng(0)
    tokens = SEQUENCES * LENGTH
    logits = 3 * rng.normal(size=(tokens, LAYERS, EXPERTS))
    order = np.random.default_rng(1).permutation(SEQUENCES)
    for sequence, place in enumerate(order):
        logits[sequence * LENGTH + 5] = 0.3 * (1 - place / SEQUENCES) * rng.normal(size=(LAYERS, EXPERTS))
    experts = np.argsort(-logits, axis=-1)[..., :2]
    largest = rng.random((tokens, LAYERS, 2)) + 1
    largest[np.arange(SEQUENCES) * LENGTH + 5, 3] += 10 * (1 + order[:, None])
    arrays = {
        "logits": logits.astype(np.float32),
        "experts": experts,
        "output_norm": (largest + 1).astype(np.float32),
        "output_absmax": largest.astype(np.float32),
        "sequence_id": np.repeat(np.arange(SEQUENCES), LENGTH),
        "token": np.array([f"t{n}" for n in range(tokens)]),
        "label": np.array(["a", "b"])[np.arange(SEQUENCES) % 2],
        "num_experts": EXPERTS,
    }
    np.savez(path.with_suffix(".npz"), **arrays)
    import_npz(path.with_suffix(".npz"), path)
    return path


def entropies(trace: Path) -> pd.DataFrame:
    """sequence_id, position, mean entropy in nats of every token, from the logits."""
    data = np.load(trace.with_suffix(".npz"))
    p = np.exp(data["logits"] - data["logits"].max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    entropy = -(p * np.log(p)).sum(axis=-1).mean(axis=-1)
    frame = pd.DataFrame({"sequence_id": data["sequence_id"], "entropy": entropy})
    return frame.assign(position=frame.groupby("sequence_id").cumcount()).sort_values("entropy", ascending=False)


def test_the_dashboard_and_the_command_line_name_the_same(trace: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("app.overview_facts.ROWS", 8 * LENGTH * LAYERS)
    here, read = _find(identify(trace), 1)
    assert read <= 8 < SEQUENCES
    assert main(["analyze", "overview", str(trace), "--json"]) == 0
    there = {row["title"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert {fact.title for fact in here} == set(there)
    sampled = {"One layer tells about the next", "What a cache of experts would hit", "Gate score and output norm"}
    for fact in here:
        if fact.title in sampled:
            assert f"Estimated from {read} of {SEQUENCES} sequences" in fact.text
            assert "Estimated" not in there[fact.title]["text"]
        else:
            assert fact.value == pytest.approx(there[fact.title]["value"]), fact.title
    unsure = next(fact for fact in here if fact.title == "The most uncertain tokens")
    top = entropies(trace).iloc[0]
    assert unsure.value == pytest.approx(top["entropy"], rel=1e-4)
    assert f"(sequence {top['sequence_id']:.0f}, position {top['position']:.0f})" in unsure.text.split(";")[0]
    assert unsure.n_tokens == SEQUENCES * LENGTH


def test_the_largest_output_is_of_all_layers_and_its_title_names_who_is_super(trace: Path) -> None:
    data = np.load(trace.with_suffix(".npz"))
    fact = next(f for f in overview(open_trace(trace), resamples=20) if f.command.split()[2] == "super_experts")
    assert fact.value == pytest.approx(data["output_absmax"].max(), rel=1e-3)
    token = data["token"][np.unravel_index(data["output_absmax"].argmax(), data["output_absmax"].shape)[0]]
    assert repr(str(token)) in fact.text
    table = analyze(trace, "super_experts", kind=("routed",))
    named = [f"{row.layer}·{row.expert}" for row in table[table["is_super"].astype(bool)].itertuples()]
    assert ("none." in fact.text) == (not named)
    assert all(name in fact.title for name in named)


@pytest.mark.parametrize(("others", "title"), [(1.0, "Super experts: 0·3"), (0.5, "Super experts: 0·3, hardly above")])
def test_no_title_denies_what_the_text_says(others: float, title: str) -> None:
    top = 100.0 if others == 1.0 else 1.0
    frame = pd.DataFrame({"layer": 0, "expert": range(4), "max_abs_output": others, "is_super": False, "n_tokens": 9})
    frame.loc[3, ["max_abs_output", "is_super"]] = [top, True]
    (fact,) = facts.largest_outputs(frame, "t.duckdb", None)
    assert fact.title.startswith(title)
    (fact,) = facts.largest_outputs(frame.assign(is_super=False), "t.duckdb", None)
    assert fact.title == ("A very large output" if top == 100.0 else "No super experts")
