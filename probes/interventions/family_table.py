"""The table family × intervention of docs/interventions.md, from what the trials found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from probes.interventions.family_check import FAILS, PARTLY, REFUSED, YES, Trial

MARKS = {YES: "✓", PARTLY: "part", REFUSED: "–", FAILS: "FAILS"}


def family_table(trials: Sequence[Trial]) -> str:
    """Markdown: how many families carry what, the families that do not carry everything, and why."""
    names = list(dict.fromkeys(t.intervention for t in trials))
    families = list(dict.fromkeys(t.family for t in trials))
    outcome = {(t.family, t.intervention): t for t in trials}
    complete = [f for f in families if all(outcome[f, name].outcome == YES for name in names)]
    return "\n".join(
        [
            f"Tried with `probe families --check --interventions` on the tiny model of {len(families)} families: the",
            "output changes under it, the recorded routing shows it, and afterwards the model gives its plain output",
            "bit for bit.",
            "",
            *_counts(trials, names, len(families)),
            "",
            f"**Every intervention** works in {len(complete)} families: {', '.join(complete)}.",
            "",
            "The others:",
            "",
            *_grid([f for f in families if f not in complete], names, outcome),
            "",
            *_reasons(trials),
        ]
    )


def summary(trials: Sequence[Trial]) -> str:
    """One line: of how many trials how many went how."""
    counts = Counter(t.outcome for t in trials)
    families = len({t.family for t in trials})
    words = ", ".join(f"{counts[o]} {w}" for o, w in zip(MARKS, ("yes", "in part", "refused", "FAILED"), strict=True))
    return f"{len(trials)} trials in {families} families: {words}"


def lines(trials: Sequence[Trial]) -> list[str]:
    """A line per family for the terminal: what it carries, and what not."""
    rows = []
    for family in dict.fromkeys(t.family for t in trials):
        mine = [t for t in trials if t.family == family]
        words = [f"{t.intervention} {MARKS[t.outcome]}" for t in mine if t.outcome != YES]
        rows.append(f"{family:24} {sum(t.outcome == YES for t in mine)} of {len(mine)}  {', '.join(words)}".rstrip())
    return rows


def _counts(trials: Sequence[Trial], names: list[str], families: int) -> list[str]:
    lines = ["| intervention | families that carry it |", "| --- | --- |"]
    for name in names:
        counts = Counter(t.outcome for t in trials if t.intervention == name)
        part = f" ({counts[PARTLY]} of them in some layers)" if counts[PARTLY] else ""
        lines.append(f"| `{name}` | {counts[YES] + counts[PARTLY]} of {families}{part} |")
    return lines


def _grid(families: list[str], names: list[str], outcome: dict[tuple[str, str], Trial]) -> list[str]:
    lines = ["| family | " + " | ".join(f"`{n}`" for n in names) + " |", "| --- |" + " :-: |" * len(names)]
    return lines + [
        f"| {family} | " + " | ".join(MARKS[outcome[family, n].outcome] for n in names) + " |" for family in families
    ]


def _reasons(trials: Sequence[Trial]) -> list[str]:
    why: dict[str, list[str]] = {}
    for trial in trials:
        if trial.words:
            why.setdefault(trial.words, []).append(f"{trial.family} (`{trial.intervention}`)")
    return [f"* {words}: {_shortened(cases)}" for words, cases in why.items()]


def _shortened(cases: list[str]) -> str:
    by_family: dict[str, list[str]] = {}
    for case in cases:
        family, _, name = case.partition(" ")
        by_family.setdefault(family, []).append(name.strip("()"))
    return "; ".join(f"{family} ({', '.join(names)})" for family, names in by_family.items())
