"""Every metric agrees with a second, slow version written from its definition (references.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from probes import metrics
from tests.probes.metrics import references as ref
from tests.probes.metrics.cases import OPTIONS, Case, random_case

TABLES: dict[str, tuple[Callable[[Case], pd.DataFrame], list[str], Callable[[Case], ref.Rows]]] = {}


def agrees(name: str, keys: str, reference: Callable[[Case], ref.Rows], **options: Any) -> None:
    metric = name.partition(" ")[0]
    TABLES[name] = (lambda case: getattr(metrics, metric)(**case, **options), keys.split(), reference)


def renamed(reference: ref.Rows, value: str) -> ref.Rows:
    return {key: {value if c == "rate" else c: v for c, v in row.items()} for key, row in reference.items()}


agrees("load", "layer expert", ref.load)
agrees("load summary", "layer", ref.load_summary, summary=True)
agrees("routing_entropy", "layer", ref.routing_entropy)
agrees("top_p_experts", "layer p", ref.top_p_experts, p=(0.3, 0.9))
agrees("unchosen_mass", "layer", ref.unchosen_mass)
agrees("npmi", "layer expert target", ref.npmi)
agrees("npmi token", "layer expert target", ref.npmi_token, target="token")
agrees(
    "npmi frequent token",
    "layer expert target",
    lambda case: {key: row for key, row in ref.npmi_token(case).items() if row["n_x"] >= 3},
    target="token",
    min_count=3,
)
agrees("domain_specialization", "layer expert label", ref.domain_specialization)
agrees("domain_specialization summary", "layer expert", ref.domain_specialization_summary, summary=True)
for kind in ("input", "predicted", "next"):
    for top, n in (("1", 1), ("k", 0)):
        agrees(
            f"vocabulary_specialization {kind} {top}",
            "layer",
            lambda case, kind=kind, n=n: ref.vocabulary(case, kind, n, False, 2),
            kind=kind,
            top=top,
            min_count=2,
        )
        agrees(
            f"vocabulary_specialization {kind} {top} by expert",
            "layer expert",
            lambda case, kind=kind, n=n: ref.vocabulary(case, kind, n, True),
            kind=kind,
            top=top,
            by_expert=True,
        )
agrees("risk_difference", "layer expert", ref.risk_difference, first="a", against="b")
agrees(
    "risk_difference equal",
    "layer expert",
    lambda case: ref.risk_difference(case, True),
    first="a",
    against="b",
    equal_tokens=True,
)
for m in (1, 2, 3, 5, 100):
    agrees(f"srp {m}", "level layer expert", lambda case, m=m: ref.srp(case, m), segment_length=m)
    for level in ("layer", "model"):
        agrees(
            f"srp {m} {level} alone",
            "level layer expert",
            lambda case, m=m, level=level: {k: v for k, v in ref.srp(case, m).items() if k[0] == level},
            segment_length=m,
            level=level,
        )
    agrees(
        f"sch {m}",
        "level layer cache_size",
        lambda case, m=m: renamed(ref.cache_rates(case, "online", m), "sch"),
        segment_length=m,
    )
    agrees(
        f"sch window {m}",
        "level layer cache_size",
        lambda case, m=m: renamed(ref.sch_window(case, m), "sch"),
        segment_length=m,
        definition="window",
    )
for policy in ("lru", "lfu", "fifo", "lifo", "belady"):
    agrees(
        f"cache_hit_rate {policy}",
        "level layer cache_size",
        lambda case, policy=policy: renamed(ref.cache_rates(case, policy), "hit_rate"),
        policy=policy,
    )
agrees("coactivation", "layer expert other", ref.coactivation)
agrees("coactivation adjacent", "layer expert other", lambda case: ref.coactivation(case, True), adjacent_rank=True)
agrees("cross_layer", "layer next_layer", lambda case: ref.cross_layer(case, False))
agrees("cross_layer all", "layer next_layer", lambda case: ref.cross_layer(case, True), rank="all")
agrees("norm_vs_gate", "layer", ref.norm_vs_gate, summary=True)
agrees("norm_vs_gate all", "layer", ref.norm_vs_gate_all, summary=True, all_experts=True)
agrees("dataset_distance", "a b layer", ref.dataset_distance)
agrees(
    "expert_importance",
    "layer expert criterion",
    ref.expert_importance,
    criterion=OPTIONS["expert_importance"]["criterion"],
)
agrees("super_experts", "layer kind expert", lambda case: ref.super_experts(case, 5), num_hidden_layers=5)
for one in ("routed", "shared"):
    agrees(
        f"super_experts {one}",
        "layer kind expert",
        lambda case, one=one: ref.super_experts(case, 5, kinds=(one,)),
        num_hidden_layers=5,
        kind=one,
    )
agrees("representation_collapse", "layer", ref.representation_collapse)
agrees("expert_clusters", "layer expert", lambda case: ref.expert_clusters(case, 2), clusters=2)
agrees(
    "expert_similarity",
    "layer expert other kind",
    ref.expert_similarity,
    kind=("outputs", "router", "weights", "matched"),
)
agrees("router_saturation", "layer", ref.router_saturation)
agrees("batch_invariance", "sequence_id layer position", ref.batch_invariance)
agrees("capacity", "layer gamma", lambda case: ref.capacity(case, 1.25, False), gamma=1.25)
agrees("capacity reroute", "layer gamma", lambda case: ref.capacity(case, 1.0, True), gamma=1.0, mode="reroute")
agrees(
    "batch_load",
    "batch layer gamma",
    lambda case: ref.batch_load(case, 2, (1.0, 1.5), 2),
    batch=("consecutive", "packed", "sequence"),
    size=2,
    gamma=(1.0, 1.5),
    devices=2,
)


for drop in ("score", "first", "last"):
    agrees(
        f"capacity drop {drop}",
        "layer gamma",
        lambda case, drop=drop: ref.capacity_lost(case, 0.5, drop),
        gamma=0.5,
        drop=drop,
    )


@pytest.mark.parametrize("name", TABLES)
def test_agrees_with_the_definition(name: str) -> None:
    compute, keys, reference = TABLES[name]
    for seed in range(9):
        case = random_case(seed, missing=seed % 3 > 0)
        compare(compute(case), keys, reference(case), f"{name}, seed {seed}")


def compare(frame: pd.DataFrame, keys: list[str], expected: ref.Rows, where: str) -> None:
    rows = {tuple(None if pd.isna(row[k]) else row[k] for k in keys): row for row in frame.to_dict("records")}
    assert set(rows) == set(expected), where
    for key, columns in expected.items():
        for column, value in columns.items():
            got = rows[key][column]
            if value is None:
                assert pd.isna(got), (where, key, column)
            elif isinstance(value, (str, bool, list)):
                assert got == value, (where, key, column)
            else:
                # The 95th percentile goes through single precision; everything else does not.
                tolerance = 1e-6 if column == "p95" else 1e-9
                got = np.nan if got is None or got is pd.NA else float(got)
                np.testing.assert_allclose(
                    got, value, rtol=tolerance, atol=tolerance, err_msg=f"{where} {key} {column}"
                )


def test_every_metric_has_a_reference() -> None:
    assert {name.partition(" ")[0] for name in TABLES} == set(metrics.discover())
