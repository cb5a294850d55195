"""Every metric over recordings of the sample model under every intervention that drops or widens slots."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pandas as pd
import pytest

import probes
from probes.comparison import compare
from probes.metrics import discover
from probes.sample import sample_path
from tests.probes.metrics.cases import OPTIONS

SPECS = (
    "top_p:p=0.4",
    "shrink:to=1",
    "broadcast:threshold=0.5",
    "capacity:gamma=1",
    "capacity:gamma=1,mode=reroute",
    "expert_choice:gamma=1",
    "online_pruning:ratio=0.9",
    "frequency_prune:alpha=0.7",
    "reroute:layer=1,from=0,to=3",
    "rank:rank=2",
    "zero:layer=1,expert=0",
    "top_k:k=4",
    "mask:layer=1,expert=0",
)
# These need what a recording holds only when asked for, or the model.
ELSEWHERE = {"expert_similarity", "representation_collapse"}


def _three_of_each(lines):
    """Three prompts of each of four labels."""
    by_label = {}
    for line in lines:
        by_label.setdefault(json.loads(line)["label"], []).append(line)
    return [line for label in sorted(by_label)[:4] for line in by_label[label][:3]]


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    """Run 1 is plain, each further one is steered."""
    path = tmp_path_factory.mktemp("steered") / "trace.duckdb"
    model, tokenizer = probes.load_model(sample_path() / "model")
    prompts = path.with_name("prompts.jsonl")
    prompts.write_text("".join(_three_of_each((sample_path() / "prompts.jsonl").read_text().splitlines(True))))
    for spec in (None, *SPECS):
        probes.record(
            model, prompts, path, tokenizer=tokenizer, progress=False, batch_size=4,
            capture="logits,weights,norms,moments,hidden,shared,predictions",
            interventions=[spec] if spec else None,
        )  # fmt: skip
    return probes.open_trace(path)


@pytest.mark.parametrize("run", range(1, len(SPECS) + 2))
def test_every_metric_stays_in_its_ranges(trace, run):
    for name, metric in discover().items():
        if name in ELSEWHERE:
            continue
        paired = {"against": 1} if metric.paired else {}
        given = OPTIONS.get(name, {})
        if name == "risk_difference":
            labels = trace.sql("SELECT DISTINCT label FROM sequences WHERE run_id = 1 ORDER BY 1")["label"].tolist()
            given = {"label": labels[0], "against": labels[1]}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            frame = probes.analyze(trace, name, run_id=run, **paired, **given)
        for column in metric.columns:
            if column.name not in frame or not pd.api.types.is_numeric_dtype(frame[column.name]):
                continue
            values = frame[column.name].astype("Float64").dropna().to_numpy(float)
            assert not np.isinf(values).any(), (name, column.name)
            assert (values >= (-np.inf if column.low is None else column.low) - 1e-9).all(), (name, column.name)
            assert (values <= (np.inf if column.high is None else column.high) + 1e-9).all(), (name, column.name)


def test_a_run_keeps_its_router_s_k_and_agrees_with_itself(trace):
    assert set(trace.runs()["top_k"]) == {2}
    for run in trace.runs()["run_id"]:
        same = probes.analyze(trace, "router_saturation", run_id=run, against=run)
        assert same["saturation"].tolist() == [1.0] * 4
        assert same["slot_change"].tolist() == [0.0] * 4
        assert len(probes.analyze(trace, "batch_invariance", run_id=run, against=run)) == 0


def test_unchosen_mass_is_what_the_stored_logits_say(trace):
    query = """SELECT layer, avg(coalesce(rest, 0)) AS mean FROM (
        SELECT layer, sequence_id, position, sum(probability) FILTER (NOT chosen) AS rest, bool_or(chosen) AS any
        FROM router_logits WHERE run_id = ? GROUP BY ALL) WHERE "any" GROUP BY layer ORDER BY layer"""
    for run in range(1, len(SPECS) + 2):
        table = probes.analyze(trace, "unchosen_mass", run_id=run)
        np.testing.assert_allclose(table["mean"], trace.sql(query, [run])["mean"], atol=1e-6)


@pytest.mark.parametrize("run", range(2, len(SPECS) + 2))
def test_a_plain_and_a_steered_run_can_be_compared(trace, run):
    assert len(compare(trace, trace, run=1, against=run).layers) == 4
