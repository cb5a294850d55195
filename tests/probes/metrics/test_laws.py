"""Every metric obeys the laws it states, on random routing; and every law can be broken."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probes.metrics import discover
from probes.metrics.function import make_function
from probes.metrics.laws import ENDS, LAWS
from probes.metrics.load import METRIC as LOAD
from tests.probes.metrics import cases
from tests.probes.metrics.lawbook import CHECKS, options

METRICS = discover()
PAIRS = [(name, law) for name, metric in METRICS.items() for law in metric.laws]


def test_the_laws_are_those_that_are_written_down() -> None:
    assert set(CHECKS) == set(LAWS)
    for metric in METRICS.values():
        assert set(metric.laws) <= set(LAWS), metric.name
        assert set(metric.ends) <= set(ENDS), metric.name
        assert ("self_agreement" in metric.laws) == metric.paired, metric.name
        assert {"expert_permutation", "range", "additivity", "missing", "empty_slots"} <= set(metric.laws), metric.name


@pytest.mark.parametrize(("name", "law"), PAIRS)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_law(name: str, law: str, seed: int) -> None:
    metric = METRICS[name]
    rng, case = np.random.default_rng(seed), cases.random_case(seed)
    # Half of the routing is a steered model's: tokens with fewer, and with more, experts than the router's own k.
    CHECKS[law](make_function(metric), metric, cases.drop_slots(case, rng) if seed % 2 else case, rng)


@pytest.mark.parametrize("name", [n for n, m in METRICS.items() if m.ends])
@pytest.mark.parametrize(("k", "experts"), [(1, 4), (2, 6), (3, 6)])
def test_ends(name: str, k: int, experts: int) -> None:
    metric = METRICS[name]
    for end, expected in metric.ends.items():
        frame = make_function(metric)(**getattr(cases, end)(k, experts), **options(metric))
        for column in {"expert", "other"} & set(frame.columns) if end == "one_hot" else ():
            frame = frame[frame[column].isna() | (frame[column] < k)]
        for column, value in expected.items():
            wanted = np.full(len(frame), value(k, experts))
            np.testing.assert_allclose(frame[column].astype(float), wanted, atol=1e-12, err_msg=f"{end} {column}")


def _table(change: Any) -> Any:
    return lambda counts, opts, about: change(LOAD.table(counts, opts, about))


def _count(change: Any) -> Any:
    return lambda chunk, opts: {"chosen": change(chunk, LOAD.count(chunk, opts)["chosen"])}


def _first_only(chunk: Any, chosen: np.ndarray) -> np.ndarray:
    out = np.zeros_like(chosen)
    ids = chunk.experts[:, :, 0]
    for t, i in zip(*np.nonzero(ids >= 0), strict=True):
        out[chunk.group[t], i, ids[t, i]] += 1
    return out


def _first_token(chunk: Any, chosen: np.ndarray) -> np.ndarray:
    chosen[0, 0, max(chunk.experts[0, 0, 0], 0)] += 100
    return chosen


def _count_missing(chunk: Any, chosen: np.ndarray) -> np.ndarray:
    chosen[0, :, 0] += (~chunk.routed).sum(axis=0)
    return chosen


LIARS = {
    "expert_permutation": replace(LOAD, table=_table(lambda f: f.assign(share=f["share"] * (f["expert"] + 1)))),
    "rank_order": replace(LOAD, count=_count(_first_only)),
    "token_order": replace(LOAD, count=_count(_first_token)),
    "sequence_order": replace(LOAD, count=_count(_first_token)),
    "range": replace(LOAD, table=_table(lambda f: f.assign(share=f["share"] - 1))),
    "additivity": replace(LOAD, merge=lambda a, b: b),
    "duplication": replace(LOAD, count=_count(lambda chunk, chosen: chosen + 5)),
    "missing": replace(LOAD, count=_count(_count_missing)),
    "empty_slots": LOAD,
    "self_agreement": replace(LOAD, table=_table(lambda f: f.assign(change_rate=0.5))),
}


def _liar(law: str) -> Any:
    """The function of the liar. Empty slots are put in order before any metric sees them, so that one lies outside."""
    honest = make_function(LIARS[law])
    if law != "empty_slots":
        return honest
    return lambda **arrays: honest(**arrays).assign(count=arrays["experts"].shape[2])


@pytest.mark.parametrize("law", sorted(LAWS))
def test_each_law_can_fail(law: str) -> None:
    """A metric that breaks exactly this rule is found out by some case."""
    liar = LIARS[law]
    for seed in range(20):
        try:
            CHECKS[law](_liar(law), liar, cases.random_case(seed), np.random.default_rng(seed))
        except AssertionError:
            return
    pytest.fail(f"nothing breaks {law}")
