"""Do the experts of thinking, boosted, change accuracy or length?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from experiments.lab import Lab
from experiments.words import around, controlled, experts_of, more_than_controls, number, percent, points, sure, verdict
from probes.evaluation import Evaluation
from probes.evaluation.plots import Series


def boosting(lab: Lab) -> Iterator[str]:
    yield "### Boosting the experts of thinking (RICE)\n"
    factors = (2, 4, 8, 16, 64)
    kinds = {
        "contrast": "npmi:contrast=<think>,minus=</think>,top=2,action=boost",
        "label": "npmi:label=arithmetic,top=2,action=boost",
    }
    arms = {(kind, f): f"{recipe},factor={f}" for kind, recipe in kinds.items() for f in factors}
    found = lab.evaluate([lab.sums], list(arms.values()))
    for measure, unit in (("exact_match", "right answers"), ("length", "tokens written")):
        series = [
            Series(f"by {kind}", points([found.row("sums", arms[kind, f], measure) for f in factors], factors), True)
            for kind in kinds
        ]
        rows = [found.row("sums", arms["contrast", f], measure) for f in factors]
        series.append(Series("others as busy", around(rows, factors), True))
        base = found.row("sums", "baseline", measure)
        caption = (
            f"Sums (n = {base.n}) when two experts count for more; without: {number(base.value, base.low, base.high)}."
        )
        chart = (f"Boost: {unit}", "factor", unit, series)
        yield lab.picture(f"boost-{measure}", caption, *chart, log=True)
    for kind in kinds:
        yield _boosted(found, kind, [arms[kind, f] for f in factors], factors)


def _boosted(found: Evaluation, kind: str, arms: Sequence[str], factors: Sequence[int]) -> str:
    rows = [
        (f, found.row("sums", a, "exact_match"), found.row("sums", a, "length"))
        for f, a in zip(factors, arms, strict=True)
    ]
    hurt = [f for f, right, _ in rows if sure(right, -1)]
    longer, shorter = ([f for f, _, length in rows if sure(length, sign)] for sign in (1, -1))
    name = "npmi(`<think>`) − npmi(`</think>`)" if kind == "contrast" else "nPMI with the label arithmetic"
    parts = [f"accuracy falls at factors {', '.join(map(str, hurt))}" if hurt else "accuracy does not change"]
    parts.append(f"answers get longer at {', '.join(map(str, longer))}" if longer else "no factor makes answers longer")
    parts += [f"shorter at {', '.join(map(str, shorter))}"] if shorter else []
    f, right, length = rows[-1]
    return (
        f"The two experts with the highest {name} ({experts_of(found, arms[0])}): {', '.join(parts)}. At {f}: "
        f"{percent(right)} right, {number(length.value, length.low, length.high, 1)} tokens instead of "
        f"{length.baseline:.1f}. Accuracy was {100 * (right.baseline or 0):.0f} % before, so a gain could not show. "
        f"Boosted as much instead: {controlled(right, 'other experts of the same layers')}. "
        f"{verdict(more_than_controls(right, -1), 'this costs more right answers than boosting others as busy does')}\n"
    )
