"""From records of single items to rows: value, difference from the baseline, difference from the controls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

import numpy as np

from probes.evaluation.arms import BASELINE, Arm
from probes.evaluation.controlled import Matched, share
from probes.evaluation.score import Record
from probes.evaluation.statistics import (
    MEASURES,
    Measure,
    Sums,
    against,
    against_controls,
    bounds,
    holm,
    resamples,
    sign_flip_p,
)


@dataclass(frozen=True)
class Row:
    """One measure of one task under one arm; every interval is of 95 %. None: there is nothing to compare with.

    n            items;  baseline: the value without intervention
    difference   value − baseline, paired over items;  p, p_holm: of no difference, alone and corrected
    control      mean of the controls, which lie between control_min and control_max
    control_kind what a control has in common with the arm: "load-matched", "count-matched", "random choice"
    load         share of the assignments of the task's evaluated tokens, in the layers named, that its experts get from
                 the baseline; those of the controls' lie between control_load_min and control_load_max
    control_sizes where controls name more or fewer experts than the arm
    control_note why there are fewer controls than asked for, or none
    acted        whether the interventions reached any token of the task; False: the numbers are the baseline's
    beyond       value − control, items and controls drawn anew;  p_control, p_control_holm: of no difference
    """

    task: str
    arm: str
    measure: str
    unit: str
    n: int
    value: float
    low: float
    high: float
    baseline: float | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    p: float | None = None
    p_holm: float | None = None
    controls: int = 0
    control: float | None = None
    control_min: float | None = None
    control_max: float | None = None
    beyond: float | None = None
    beyond_low: float | None = None
    beyond_high: float | None = None
    p_control: float | None = None
    p_control_holm: float | None = None
    control_kind: str | None = None
    load: float | None = None
    control_load_min: float | None = None
    control_load_max: float | None = None
    control_sizes: str | None = None
    control_note: str | None = None
    acted: bool | None = None


def rows_of(records: dict[str, list[Record]], arms: list[Arm], seed: int, matched: Sequence[Matched] = ()) -> list[Row]:
    """All rows, p-values corrected over all of them; records: arm -> a record per item, in the same order."""
    tasks = list(dict.fromkeys(record["task"] for record in records[BASELINE]))
    rows = [row for task in tasks for measure in MEASURES for row in _measured(task, measure, records, arms, seed)]
    return [_told(row, matched) for row in _corrected(rows)]


def _told(row: Row, matched: Sequence[Matched]) -> Row:
    """With what its controls are and carry."""
    for one in matched:
        if one.arm == row.arm and one.task in (None, row.task):
            loads = [load for each in one.control_loads if (load := share(each)) is not None]
            return replace(
                row,
                control_kind=one.kind,
                load=one.load,
                control_load_min=min(loads, default=None),
                control_load_max=max(loads, default=None),
                control_sizes=one.sizes or None,
                control_note=one.reason or None,
            )
    return row


def _measured(
    task: str, measure: Measure, records: dict[str, list[Record]], arms: list[Arm], seed: int
) -> Iterator[Row]:
    sums = {arm.name: _sums(records[arm.name], task, measure) for arm in arms}
    base = sums[BASELINE]
    if base is None:
        return
    weights = resamples(len(base.num), seed)
    for arm in arms:
        mine = sums[arm.name]
        if arm.control_of is None and _known(mine) and (measure.tested or arm.name != BASELINE):
            row = replace(_row(task, arm.name, measure, mine, weights), acted=_acted(records[arm.name], task))
            if arm.name != BASELINE:
                row = _compared(row, measure, mine, base, weights, seed)
                around = [s for other in arms if other.control_of == arm.name and _known(s := sums[other.name])]
                row = _controlled(row, measure, mine, around, weights, seed) if around else row
            yield row


def _acted(records: list[Record], task: str) -> bool | None:
    """None for what has nothing to act, and for records of an older work file."""
    told = [record["acted"] for record in records if record["task"] == task and record.get("acted") is not None]
    return any(told) if told else None


def idle(rows: list[Row]) -> list[str]:
    """Arms whose interventions reached no token, in words: what they show is no effect of theirs."""
    where: dict[str, list[str]] = {}
    for row in rows:
        if row.acted is False and row.task not in where.setdefault(row.arm, []):
            where[row.arm].append(row.task)
    return [
        f"{arm}: acted on no token of {', '.join(tasks)}; its numbers are the baseline's"
        for arm, tasks in where.items()
    ]


def _known(sums: Sums | None) -> TypeGuard[Sums]:
    return sums is not None and not np.isnan(sums.num).any()


def infinite(records: dict[str, list[Record]], arms: list[Arm]) -> list[str]:
    """What could not be reported, in words."""
    found = []
    for arm in arms:
        for measure, key in (("perplexity", "nll"), ("kl", "kl")):
            some = [record for record in records[arm.name] if record.get(key, 0.0) is None]
            if some:
                where = f"{len(some)} of {len(records[arm.name])} items"
                found.append(f"{arm.name}: no {measure}, it is infinite in {where} (tokens ruled out altogether)")
    return found


def _sums(records: list[Record], task: str, measure: Measure) -> Sums | None:
    found = [measure.of(record) for record in records if record["task"] == task]
    known = [pair for pair in found if pair is not None]
    return Sums(*np.array(known, np.float64).T) if known else None


def _row(task: str, arm: str, measure: Measure, mine: Sums, weights: np.ndarray) -> Row:
    low, high = bounds(mine.drawn(weights, measure.then))
    return Row(task, arm, measure.name, measure.unit, len(mine.num), mine.value(measure.then), low, high)


def _compared(row: Row, measure: Measure, mine: Sums, base: Sums, weights: np.ndarray, seed: int) -> Row:
    if not measure.tested:
        return row
    difference, low, high = against(mine, base, weights, measure.then)
    return replace(
        row,
        baseline=base.value(measure.then),
        difference=difference,
        difference_low=low,
        difference_high=high,
        p=sign_flip_p(mine.num - base.num, seed),
    )


def _controlled(row: Row, measure: Measure, mine: Sums, around: list[Sums], weights: np.ndarray, seed: int) -> Row:
    values = [control.value(measure.then) for control in around]
    beyond, low, high = against_controls(mine, around, weights, measure.then, seed)
    mean = np.mean([control.num for control in around], axis=0)
    return replace(
        row,
        controls=len(around),
        control=float(np.mean(values)),
        control_min=min(values),
        control_max=max(values),
        beyond=beyond,
        beyond_low=low,
        beyond_high=high,
        p_control=sign_flip_p(mine.num - mean, seed),
    )


def _corrected(rows: list[Row]) -> list[Row]:
    p = np.array([[row.p, row.p_control] for row in rows], np.float64).reshape(-1)
    adjusted: Any = holm(p).reshape(-1, 2)
    return [
        replace(
            row,
            p_holm=None if row.p is None else float(alone),
            p_control_holm=None if row.p_control is None else float(controlled),
        )
        for row, (alone, controlled) in zip(rows, adjusted, strict=True)
    ]
