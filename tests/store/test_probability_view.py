"""`router_logits.probability` by the stated kind of scores, against plain NumPy."""

from dataclasses import replace

import duckdb
import numpy as np
import pytest

from store.writer import TraceWriter
from tests.store.made import RUN, Plan, make_batch

SCORES = {
    "softmax: topk_sigmoid": lambda z: np.exp(z),
    "sigmoid: sqrtsoftplus_bias": lambda z: 1 / (1 + np.exp(-z)),
    "sqrtsoftplus: sqrtsoftplus_bias": lambda z: np.sqrt(np.log1p(np.exp(z))),
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "softmax": lambda z: np.exp(z),
}


def written(path, gating):
    plan = Plan()
    with TraceWriter.create(path, RUN, [replace(info, gating=gating) for info in plan.infos]) as writer:
        writer.write(make_batch(plan, 0))
        writer.finish()
    query = "SELECT sequence_id, position, layer, list(logit ORDER BY expert), list(probability ORDER BY expert) "
    return duckdb.connect(str(path), read_only=True).execute(query + "FROM router_logits GROUP BY ALL").fetchall()


@pytest.mark.parametrize("gating", SCORES)
def test_probability_is_by_the_stated_kind(tmp_path, gating):
    rows = written(tmp_path / "t.duckdb", gating)
    assert rows
    for *_, logits, probabilities in rows:
        scores = SCORES[gating](np.array(logits, np.float64))
        np.testing.assert_allclose(probabilities, scores / scores.sum(), rtol=1e-4)


def test_an_unknown_kind_has_none(tmp_path):
    rows = written(tmp_path / "t.duckdb", "unknown: odd")
    assert rows
    assert all(p is None for *_, probabilities in rows for p in probabilities or [None])
