"""The declared strategies: what they say of themselves holds together, and what people write is read."""

import pytest

from probes.errors import UsageError
from probes.interventions.decoding import parse_strategy, strategies, strategy

NAMES = ["c3po", "contrast", "ensemble", "plain", "rewire"]
NEEDED = {"c3po": {"references": "tasks.jsonl"}}


def test_the_strategies_are_found():
    assert list(strategies()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_record_is_complete(name):
    declared = strategy(name)
    assert all((declared.title, declared.does, declared.formula, declared.source, declared.cost))
    assert all(option.help for option in declared.options)
    assert set(declared.neutral or {}) <= {option.name for option in declared.options}
    assert parse_strategy({"name": name, **NEEDED.get(name, {}), **(declared.neutral or {})}).is_plain


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "ensemble:n=8,tau=0.5",
        "contrast:rank=2+3,beta=1.0",
        "rewire:layers=0+2,every=16",
        "c3po:references=x.jsonl",
    ],
)
def test_what_is_written_is_read_back(text):
    plan = parse_strategy(text)
    assert str(plan).partition(":")[0] == text.partition(":")[0]
    assert parse_strategy(str(plan)) == plan
    assert parse_strategy(plan.as_dict()) == plan


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ensembel", "did you mean 'ensemble'"),
        ("ensemble:m=4", "unknown option of ensemble 'm'"),
        ("ensemble:n=0", "ensemble: n must be between 1 and 256, not 0"),
        ("ensemble:tau=nan", "finite"),
        ("contrast:alpha=0", "alpha must be"),
        ("rewire:optimizer=adams", "did you mean 'adam'"),
        ("ensemble:4", "no key=value"),
        ("c3po", "references=FILE"),
    ],
)
def test_mistakes_are_named(text, words):
    with pytest.raises(UsageError, match=words):
        parse_strategy(text)
