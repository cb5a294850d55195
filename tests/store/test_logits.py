"""Packed logits: every pattern there is comes back, in Python and in SQL; probabilities are those of the definition."""

import numpy as np
import pyarrow as pa
import pytest

from store import database
from store.aggregate import scores_of
from store.encode import pack_logits, unpack_logits, widen
from store.trace import open_trace
from tests.store.made import Plan, write

ALL = np.arange(65_536, dtype=np.uint16)


def patterns(kind):
    """All 65,536 patterns, each beside a random other, with an odd width. float32: the upper and lower half of one."""
    others = np.random.default_rng(0).permutation(ALL)
    bits = np.stack([ALL, others, others[::-1]], axis=1)
    if kind == "float32":
        whole = (bits[:, :1].astype(np.uint32) << 16) | np.tile(others[:, None], (1, 33))
        return np.ascontiguousarray(whole).view(np.float32)
    return bits if kind == "bfloat16" else bits.view(np.float16)


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "float32"])
def test_packing_is_lossless_for_every_pattern(kind):
    values = patterns(kind)
    back = unpack_logits(pack_logits(values), values.dtype, values.shape[1])
    assert back.dtype == np.float32
    np.testing.assert_array_equal(np.ascontiguousarray(back).view(np.uint32), widen(values).view(np.uint32))


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "float32"])
def test_sql_shows_the_exact_value_of_every_pattern(kind):
    values = patterns(kind)
    con = database.memory()
    con.execute(database.views_sql())
    con.register("words", pa.table({"i": np.arange(len(values)), "w": pa.array(list(pack_logits(values)))}))
    query = f"SELECT [raw.{kind}_at(w, j) FOR j IN range({values.shape[1]})] AS x FROM words ORDER BY i"
    shown = con.sql(query).to_arrow_table()["x"].combine_chunks().flatten().to_numpy()
    con.close()
    np.testing.assert_array_equal(shown.view(np.uint32), widen(values).view(np.uint32).reshape(-1))


def test_usual_bfloat16_logits_take_26_bits_of_32():
    values = np.random.default_rng(0).standard_normal((1000, 64)).astype(np.float32)
    words = pack_logits((values.view(np.uint32) >> 16).astype(np.uint16))
    assert words.max() < 1 << 26


@pytest.mark.parametrize("spread", [1.0, 200.0])
def test_softmax(spread):
    logits = np.random.default_rng(0).standard_normal((500, 12)).astype(np.float32) * np.float32(spread)
    scores, share = scores_of(logits, "softmax")
    exact = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(scores * share[:, None], exact / exact.sum(axis=1, keepdims=True), rtol=2e-5, atol=1e-30)


def test_sigmoid_scores_sum_to_one():
    logits = np.array([[0.0, 2.0, -200.0]], dtype=np.float32)
    scores, share = scores_of(logits, "sigmoid, bias")
    p = (scores * share[:, None])[0]
    np.testing.assert_allclose(p, [0.5 / (0.5 + 0.880797), 0.880797 / (0.5 + 0.880797), 0], atol=1e-6)


def test_router_logits_view(tmp_path):
    plan = Plan(logits="float32", logit_rate=0.5)
    batches = write(tmp_path / "t.duckdb", plan, batches=2)
    frame = open_trace(tmp_path / "t.duckdb").sql(
        "SELECT * FROM router_logits WHERE layer = 2 ORDER BY sequence_id, position, expert"
    )
    rows = [next(r for r in b.layers if r.layer == 2) for b in batches]
    logits = np.concatenate([r.logits[r.logits_kept] for r in rows]).astype(np.float64)
    experts = np.concatenate([r.experts[r.logits_kept] for r in rows])
    np.testing.assert_array_equal(frame.logit.to_numpy().reshape(-1, 16), logits.astype(np.float32))
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(
        frame.probability.to_numpy().reshape(-1, 16), p / p.sum(axis=1, keepdims=True), rtol=1e-5
    )
    chosen = (experts[:, :, None] == np.arange(16)).any(axis=1)
    np.testing.assert_array_equal(frame.chosen.to_numpy().reshape(-1, 16), chosen)


def test_the_stated_kind_of_scores_comes_before_the_name_of_the_rule():
    """kolibri1 is stored as "softmax: topk_sigmoid", deepseek_v4 with sigmoid as "sigmoid: sqrtsoftplus_bias"."""
    z = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    softmax = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    sigmoid = 1 / (1 + np.exp(-z))
    root = np.sqrt(np.log1p(np.exp(z)))
    for gating, expected in {
        "softmax: topk_sigmoid": softmax,
        "sigmoid: sqrtsoftplus_bias": sigmoid / sigmoid.sum(1, keepdims=True),
        "sqrtsoftplus: sqrtsoftplus_bias": root / root.sum(1, keepdims=True),
        "softmax": softmax,
    }.items():
        scores, share = scores_of(z, gating)
        assert np.allclose(scores * share[:, None], expected, atol=1e-6), gating
