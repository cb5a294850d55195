"""Does banning the experts that go with arithmetic hurt arithmetic, and only that?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from experiments.lab import Lab
from experiments.words import (
    around,
    beyond,
    controlled,
    experts_of,
    more_than_controls,
    number,
    percent,
    points,
    said,
    sure,
    verdict,
)
from probes.evaluation import Evaluation, Row
from probes.evaluation.plots import Series


def banning(lab: Lab) -> Iterator[str]:
    yield "### Banning the experts of arithmetic\n"
    tops = (1, 2, 4, 8)
    arms = [f"npmi:label=arithmetic,top={n},action=ban" for n in tops]
    facts = lab.task("facts", lab.lines("tasks/facts")[: lab.sizes.facts])
    asked = [x for x in lab.lines("tasks/context_text") if x["metadata"]["rivals"] == 0][: lab.sizes.pairs]
    others = {label: lab.task(f"text-{label}", some) for label, some in lab.texts.items() if label != "arithmetic"}
    found = lab.evaluate([lab.sums, facts, lab.task("context", asked), *others.values()], arms)
    counted = lab.evaluate([lab.sums], [arms[1]], control="count").row("sums", arms[1], "exact_match")
    rows = {task: [found.row(task, arm, "exact_match") for arm in arms] for task in ("sums", "facts", "context")}
    series = [
        *(Series(f"{task} (n = {some[0].n})", points(some, map(str, tops)), True) for task, some in rows.items()),
        Series("sums, others as busy banned", around(rows["sums"], [*map(str, tops)]), True),
    ]
    caption = (
        "Right answers when the experts with the highest nPMI with the label arithmetic are banned. Whiskers: 95 %"
    )
    caption += " intervals; for bans of other experts with the same load, the lowest and highest of them."
    chart = ("Banning the top experts of arithmetic", "experts banned", "right answers", series)
    yield lab.picture("ban", caption, *chart)
    two = rows["sums"][1]
    drops = {task: some[1].difference or 0.0 for task, some in rows.items()}
    spared = all(drop > drops["sums"] / 4 for task, drop in drops.items() if task != "sums")
    works = sure(two, -1) and more_than_controls(two, -1)
    yield (
        f"`{arms[1]}` (experts {experts_of(found, arms[1])}): sums fall from {100 * (two.baseline or 0):.0f} % to "
        f"{percent(two)} ({said(two.p_holm)}, n = {two.n}). Banned instead: "
        f"{controlled(two, 'other experts of the layer')}. Facts stay at "
        f"{percent(rows['facts'][1])} (n = {rows['facts'][1].n}), questions about a text at "
        f"{percent(rows['context'][1])} (n = {rows['context'][1].n}). "
        f"{verdict(works, 'the ban lowers sums, and more than bans of other experts as busy do')} "
        f"{verdict(spared, 'other answers suffer far less')}\n"
    )
    yield (
        "What controls that only have the same number would say: "
        f"{controlled(counted, 'as many experts of the layer')}. {_standing(two, counted)}\n"
    )
    yield from _others(lab, found, arms)


def _standing(by_load: Row, by_count: Row) -> str:
    """Does what count-matched controls say stand when the controls are as busy?"""
    if by_load.control is None:
        return "Whether it is more than what any experts as busy do is not known: there are none."
    if beyond(by_count, -1) == beyond(by_load, -1):
        return "Both kinds of control say the same."
    return (
        "That does not stand: these experts were compared with idler ones, and what differs is how many tokens lose an "
        "expert, not which expert they lose."
    )


def _others(lab: Lab, found: Evaluation, arms: Sequence[str]) -> Iterator[str]:
    """The ban of two, by the perplexity of texts of other labels."""
    yield f"Perplexity of texts of other labels under the same ban (n = {lab.sizes.texts} texts each):\n"
    yield "| label | baseline | banned | load | load-matched bans: mean (lowest, highest; how many) |"
    yield "|---|---|---|---|---|"
    for label in (label for label in lab.texts if label != "arithmetic"):
        row = found.row(f"text-{label}", arms[1], "perplexity")
        control = (
            f"{row.control:.2f} ({row.control_min:.2f}, {row.control_max:.2f}; {row.controls})" if row.controls else ""
        )
        load = "" if row.load is None else f"{100 * row.load:.1f} %"
        yield (
            f"| {label} | {row.baseline:.2f} | {number(row.value, row.low, row.high)} | {load} | "
            f"{control or row.control_note} |"
        )
    yield ""
