"""Strategies compared: right answers counted, differences paired, costs as they were."""

import pytest

from probes.errors import UsageError
from probes.interventions.decoding.compare import compare_strategies, is_right
from probes.interventions.decoding.on_sample import CONDITIONS, compare_on_sample
from probes.prompts import Prompt


def prompt(text="1+1=", target="2", **metadata):
    return Prompt(source="", prompt_id="", text=text, target=target, metadata=metadata)


@pytest.mark.parametrize(
    ("said", "right"),
    [("2\nand more", True), (" 2", True), ("<think>1+1</think>2\n", True), ("22", False), ("\n2", True)],
)
def test_an_answer_is_the_first_line_after_thinking(said, right):
    assert is_right(prompt(), said) is right
    assert is_right(prompt(target="<think></think>2", answer="2"), said) is right


def test_the_sample_model_under_damage():
    table = compare_on_sample(["soft"], ["contrast:beta=0", "ensemble:n=2"], limit=8)
    plain, neutral, ensemble = (row._asdict() for row in table.itertuples(index=False))
    assert list(table.condition) == [CONDITIONS["soft"].title] * 3
    assert (table.n == 8).all()
    for name in ("accuracy", "low", "high", "rows_per_token", "forwards"):
        assert neutral[name] == plain[name]
    assert (neutral["difference_low"], neutral["difference_high"], neutral["gained"], neutral["lost"]) == (0, 0, 0, 0)
    assert ensemble["gained"] - ensemble["lost"] == round(8 * ensemble["difference"])
    assert ensemble["rows_per_token"] == pytest.approx(2 * plain["rows_per_token"], rel=0.1)
    assert ((table.low >= 0) & (table.low <= table.accuracy) & (table.accuracy <= table.high) & (table.high <= 1)).all()


def test_mistakes_are_named(olmoe, tokenizer):
    with pytest.raises(UsageError, match="a text and a target"):
        compare_strategies(olmoe, tokenizer, [prompt(target=None)])
    with pytest.raises(UsageError, match="did you mean 'rivals'"):
        compare_on_sample(["rival"])
