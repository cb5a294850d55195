"""Do sets of experts move answers between a text and memory?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from experiments.lab import Lab
from experiments.words import controlled, more_than_controls, number, percent, points, said, sure, verdict
from probes.evaluation import Evaluation, Row
from probes.evaluation.plots import Series
from probes.evaluation.statistics import Sums, against, resamples

# The last token of a prompt, after which the answer is written. Chosen on the train pairs, as were both sets together
# over one of them alone.
RECIPE = "risk_difference:label=ask=text,against=ask=memory,ending=1"


def steering(lab: Lab) -> Iterator[str]:
    yield "### Text against memory, by sets of experts (SteerMoE)\n"
    both = {
        ask: [x for x in lab.lines(f"tasks/context_{ask}") if x["metadata"]["rivals"] == 0]
        for ask in ("text", "memory")
    }
    train = lab.sizes.train_pairs
    keys = ("id", "label", "text", "metadata")
    pairs = [{key: line[key] for key in keys} for some in both.values() for line in some[:train]]
    trace = lab.record("pairs", pairs)
    tasks = [lab.task(f"asked_{ask}", [_by_text(x) for x in some[-lab.sizes.pairs :]]) for ask, some in both.items()]
    counts = (2, 4, 8)
    arms = {
        (n, to): f"{RECIPE},activate={n},deactivate={n},reverse={to == 'memory'}"
        for n in counts
        for to in ("text", "memory")
    }
    found = lab.evaluate(tasks, list(arms.values()), trace=trace)
    rows = {
        (ask, to): [found.row(f"asked_{ask}", arms[n, to], "choice_margin") for n in counts]
        for ask in both
        for to in ("text", "memory")
    }
    series = [
        Series(f"asked for {ask}, to {to}", points(some, map(str, counts)), True) for (ask, to), some in rows.items()
    ]
    base = {ask: found.row(f"asked_{ask}", "baseline", "choice_margin") for ask in both}
    caption = (
        f"Log-odds of the text's answer against memory's, n = {base['text'].n} questions each. Without steering: "
        + ", ".join(f"asked for {a} {number(r.value, r.low, r.high, 1)}" for a, r in base.items())
        + "."
    )
    yield lab.picture(
        "steermoe", caption, "Steering between text and memory", "experts in each set", "log-odds for the text", series
    )
    yield (
        "Sets of the n experts with the highest and the lowest risk difference, at the last token of the prompt, "
        f"between {train} prompts asked `(from the text)` and the same {train} asked `(from memory)`; measured on "
        f"{base['text'].n} other pairs without rivals, on which nothing was chosen, as the log-odds of the two "
        "answers.\n"
    )
    widest = [arms[counts[-1], to] for to in ("text", "memory")]
    counted = lab.evaluate(tasks, widest, trace=trace, control="count")
    for ask, to, sign in (("memory", "text", 1), ("text", "memory", -1)):
        yield _shift(found, arms, counts, ask, to, sign)
        row = counted.row(f"asked_{ask}", arms[counts[-1], to], "choice_margin")
        yield f"What controls that only have the same number would say: {_beside(row)}.\n"


def _by_text(line: dict[str, Any]) -> dict[str, Any]:
    """The same question; "right" is the text's answer, however it is asked."""
    text, memory = line["target"], line["metadata"]["other"]
    text, memory = (text, memory) if line["metadata"]["ask"] == "text" else (memory, text)
    return {**line, "target": text, "choices": [text, memory]}


def _shift(found: Evaluation, arms: dict[Any, str], counts: Sequence[int], ask: str, to: str, sign: int) -> str:
    n, task = counts[-1], f"asked_{ask}"
    back = arms[n, "memory" if to == "text" else "text"]
    row = found.row(task, arms[n, to], "choice_margin")
    share = found.row(task, arms[n, to], "choice_accuracy")
    shifted = sure(row, sign) and more_than_controls(row, sign)
    apart = against(_margins(found, task, arms[n, to]), _margins(found, task, back), resamples(row.n, 0), _as_it_is)
    directed = min(sign * apart[1], sign * apart[2]) > 0
    claim = f"these sets shift the odds towards {to}, more than other sets with the same load do"
    return (
        f"Asked for {ask}, steered to {to} with sets of {n}: log-odds for the text from {row.baseline:.1f} to "
        f"{number(row.value, row.low, row.high, 1)} ({said(row.p_holm)}). Instead: {_beside(row)}. "
        f"{percent(share)} answer by the text instead "
        f"of {100 * (share.baseline or 0):.0f} %. {verdict(shifted, claim)} "
        f"Minus the opposite sets: {number(*apart, 1)}. {verdict(directed, 'the direction of the sets matters')}\n"
    )


def _beside(row: Row) -> str:
    """The controls, and how much of the shift is the sets' own."""
    text = controlled(row, "other experts of the same layers", 1, 1, " nats")
    if row.control is None or not row.difference:
        return text
    return f"{text}: {100 * (row.beyond or 0) / row.difference:.0f} % of the shift, the rest is what any such edit does"


def _margins(found: Evaluation, task: str, arm: str) -> Sums:
    values = np.array([item["margin"] for item in found.items if (item["task"], item["arm"]) == (task, arm)])
    return Sums(values, np.ones(len(values)))


def _as_it_is(ratio: Any) -> Any:
    return ratio
