"""Does banning the experts that go with arithmetic hurt arithmetic, and only that?"""

from __future__ import annotations

from collections.abc import Iterator

from experiments.lab import Lab
from experiments.words import around, beyond, experts_of, number, percent, points, said, sure, verdict
from probes.evaluation import Row
from probes.evaluation.plots import Series


def banning(lab: Lab) -> Iterator[str]:
    yield "### Banning the experts of arithmetic\n"
    tops = (1, 2, 4, 8)
    arms = [f"npmi:label=arithmetic,top={n},action=ban" for n in tops]
    facts = lab.task("facts", lab.lines("tasks/facts")[: lab.sizes.facts])
    asked = [x for x in lab.lines("tasks/context_text") if x["metadata"]["rivals"] == 0][: lab.sizes.pairs]
    others = {label: lab.task(f"text-{label}", some) for label, some in lab.texts.items() if label != "arithmetic"}
    found = lab.evaluate([lab.sums, facts, lab.task("context", asked), *others.values()], arms)
    rows = {task: [found.row(task, arm, "exact_match") for arm in arms] for task in ("sums", "facts", "context")}
    series = [
        *(Series(f"{task} (n = {some[0].n})", points(some, map(str, tops)), True) for task, some in rows.items()),
        Series(f"sums, {lab.sizes.controls} random bans", around(rows["sums"], map(str, tops)), True),
    ]
    caption = (
        "Right answers when the experts with the highest nPMI with the label arithmetic are banned. Whiskers: 95 %"
    )
    caption += " intervals; for the random bans, the lowest and highest of them."
    chart = ("Banning the top experts of arithmetic", "experts banned", "right answers", series)
    yield lab.picture("ban", caption, *chart)
    two = rows["sums"][1]
    drops = {task: some[1].difference or 0.0 for task, some in rows.items()}
    spared = all(drop > drops["sums"] / 4 for task, drop in drops.items() if task != "sums")
    works = sure(two, -1) and beyond(two, -1)
    yield (
        f"`{arms[1]}` (experts {experts_of(found, arms[1])}): sums fall from {100 * (two.baseline or 0):.0f} % to "
        f"{percent(two)} ({said(two.p_holm)}, n = {two.n}); {_controlled(two)}. Facts stay at "
        f"{percent(rows['facts'][1])} (n = {rows['facts'][1].n}), questions about a text at "
        f"{percent(rows['context'][1])} (n = {rows['context'][1].n}). "
        f"{verdict(works, 'the ban lowers sums, and far more than random bans do')} "
        f"{verdict(spared, 'other answers suffer far less')}\n"
    )
    yield f"Perplexity of texts of other labels under the same ban (n = {lab.sizes.texts} texts each):\n"
    yield "| label | baseline | banned | random bans: mean (lowest, highest) |\n|---|---|---|---|"
    for label in others:
        row = found.row(f"text-{label}", arms[1], "perplexity")
        control = f"{row.control:.2f} ({row.control_min:.2f}, {row.control_max:.2f})"
        yield f"| {label} | {row.baseline:.2f} | {number(row.value, row.low, row.high)} | {control} |"
    yield ""


def _controlled(row: Row) -> str:
    return (
        f"{row.controls} random bans of as many experts in the same layers leave {100 * (row.control or 0):.0f} % "
        f"({100 * (row.control_min or 0):.0f} to {100 * (row.control_max or 0):.0f}), so the difference from them is "
        f"{100 * (row.beyond or 0):+.0f} points [{100 * (row.beyond_low or 0):+.0f}, "
        f"{100 * (row.beyond_high or 0):+.0f}], {said(row.p_control_holm)}"
    )
