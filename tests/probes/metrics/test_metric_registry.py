"""The declarations are complete and true: names, columns, options, documents, examples."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

from probes import metrics
from probes.errors import ProbeError, UsageError
from probes.metrics.document import document
from probes.metrics.function import make_function
from tests.probes.metrics.cases import random_case
from tests.probes.metrics.lawbook import options

METRICS = metrics.discover()
MODULES = [m.name for m in pkgutil.iter_modules(metrics.__path__, "probes.metrics.")]
COMMON = {"label", "token"}


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_the_docstrings(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0
    if hasattr(importlib.import_module(name), "METRIC"):
        assert result.attempted >= 2, "a metric shows an example worked by hand"


@pytest.mark.parametrize("name", METRICS)
def test_nothing_is_blank(name: str) -> None:
    metric = METRICS[name]
    for text in (metric.title, metric.question, metric.formula, metric.source, metric.value):
        assert text
    assert metric.question.endswith("?")
    assert all(o.help and o.name.isidentifier() for o in metric.options)
    assert all(c.unit and c.description for c in metric.columns)
    assert len({o.name for o in metric.options}) == len(metric.options)
    assert len({c.name for c in metric.columns}) == len(metric.columns)
    assert {"n_tokens", "missing_share"} <= {c.name for c in metric.columns}
    assert callable(getattr(metrics, name))


SHAPES = {
    "load": [{}, {"summary": True}],
    "domain_specialization": [{}, {"summary": True}],
    "vocabulary_specialization": [{}, {"by_expert": True}],
    "npmi": [{}, {"contrast": "t1", "minus": ("t2",)}],
    "batch_invariance": [{}, {"summary": True}],
    "norm_vs_gate": [{}, {"summary": True}],
    "capacity": [{}, {"drop": "score"}],
    "cross_layer": [{}, {"transitions": True}],
    "routing_entropy": [{}, {"by": "token"}],
}


@pytest.mark.parametrize("name", METRICS)
def test_the_columns_are_the_declared_ones(name: str) -> None:
    metric, case = METRICS[name], random_case(5)
    shown: set[str] = set()
    for more in SHAPES.get(name, [{}]):
        frame = getattr(metrics, name)(**case, **{**options(metric), **more})
        declared = [c.name for c in metric.columns if c.name in frame]
        assert [c for c in frame.columns if c not in COMMON or c in declared] == declared, "in the declared order"
        assert len(frame)
        shown |= set(frame.columns)
    assert {c.name for c in metric.columns} <= shown


GROUPED = [(n, options(m)) for n, m in METRICS.items() if "label" in m.by and m.groups(m.checked({})) is None]
GROUPED += [  # groups of their own within each label
    ("npmi", {"target": "token"}),
    ("npmi", {"target": "token", "min_count": 2}),
    ("vocabulary_specialization", {}),
    ("vocabulary_specialization", {"kind": "next", "by_expert": True}),
    ("vocabulary_specialization", {"kind": "predicted", "top": "k"}),
]


@pytest.mark.parametrize(("name", "chosen"), GROUPED)
def test_by_label_is_the_same_as_the_label_alone(name: str, chosen: dict) -> None:
    case, function = random_case(8), make_function(METRICS[name])
    if "criterion" in chosen:  # the moments are those of the whole run, so what rests on them has no --by
        chosen = {**chosen, "criterion": tuple(c for c in chosen["criterion"] if not c.startswith("mone"))}
    grouped = function(**case, **chosen, by="label")
    only = {k: v[case["label"] == "a"] if len(v) == len(case["label"]) else v for k, v in _arrays(case).items()}
    alone = function(**{**case, **only}, **chosen)
    mine = grouped[grouped["label"] == "a"].drop(columns="label").reset_index(drop=True)
    order = ["target", "layer", "expert"] if "target" in mine else list(mine.columns[:0])
    mine, alone = (f.sort_values(order).reset_index(drop=True) if order else f for f in (mine, alone))
    assert mine.astype(str).equals(alone.astype(str))


def _arrays(case: dict) -> dict:
    return {name: value for name, value in case.items() if hasattr(value, "shape") and name != "layers"}


def test_the_functions_say_what_they_take() -> None:
    signature = inspect.signature(metrics.srp)
    assert signature.parameters["segment_length"].default == (4, 16, 64, 256)
    assert {"experts", "sequence_id", "num_experts", "logits", "ci", "by"} <= set(signature.parameters)
    assert "2·TP(j)" in (metrics.srp.__doc__ or "")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: metrics.get("sprp"), "did you mean 'srp'"),
        (lambda c: metrics.load(**c, sumary=True), "did you mean 'summary'"),
        (lambda c: metrics.srp(**c, segment_length=0), "--segment-length must be between 1 and 100000, not 0"),
        (lambda c: metrics.srp(**c, segment_length=2.5), "takes a whole number"),
        (lambda c: metrics.sch(**c, definition="onlin"), "did you mean 'online'"),
        (lambda c: metrics.sch(**c, cache_size=999), "--cache-size must be at most"),
        (lambda c: metrics.npmi(**c, target="tokens"), "did you mean 'token'"),
        (lambda c: metrics.routing_entropy(**c, by="token", ci=True), "no --ci"),
        (lambda c: metrics.risk_difference(**c, first="a", against="c"), "unknown label for --against 'c'"),
        (lambda c: metrics.load(**c, by="token"), "unknown grouping for --by"),
        (lambda c: metrics.dataset_distance(**c, by="label"), "has no --by"),
        (lambda c: metrics.expert_importance(**c, criterion="max_activation", ci=True), "no --ci for a maximum"),
    ],
)
def test_wrong_usage_is_one_clear_line(call: object, message: str) -> None:
    with pytest.raises(UsageError) as error:
        call(random_case(1))  # type: ignore[operator]
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_experts": None}, "num_experts is needed"),
        ({"num_experts": 1}, "but num_experts is 1"),
        ({"logits": None}, "needs `logits`"),
        ({"layers": [1]}, "layers names 1 layers"),
        ({"sequence_id": [1, 2, 1]}, "sequence_id has 3 tokens"),
        ({"label": ["a"] * 99}, "label has 99 entries"),
        ({"token_id": [1]}, "token_id has shape [1]"),
    ],
)
def test_arrays_that_do_not_fit_are_named(change: dict, message: str) -> None:
    with pytest.raises(ProbeError) as error:
        metrics.routing_entropy(**{**random_case(1), **change})
    assert message in str(error.value)


def test_tokens_of_a_sequence_stand_together() -> None:
    with pytest.raises(ProbeError, match="must stand together"):
        metrics.load([[0], [0], [0]], [1, 2, 1], 2)


def test_the_document_is_current() -> None:
    path = Path(__file__).parents[3] / "docs" / "metrics.md"
    assert path.read_text(encoding="utf-8") == document(), "run: python -m probes.metrics.document"
