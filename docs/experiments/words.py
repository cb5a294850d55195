"""Numbers as the page writes them, and what may be claimed of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from probes.evaluation import Evaluation, Row
from probes.evaluation.plots import Point

SURE = 0.05


def percent(row: Row) -> str:
    return f"{100 * row.value:.0f} % [{100 * row.low:.0f}, {100 * row.high:.0f}]"


def number(value: float, low: float, high: float, digits: int = 2) -> str:
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def said(p: float | None) -> str:
    return "" if p is None else "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def sure(row: Row, sign: int) -> bool:
    """Does the value differ from the baseline in this direction, more than chance would make it?"""
    return row.difference is not None and sign * row.difference > 0 and (row.p_holm or 0) <= SURE


def beyond(row: Row, sign: int) -> bool:
    """And by more than the random controls?"""
    return row.beyond is not None and sign * row.beyond > 0 and (row.p_control_holm or 0) <= SURE


def points(rows: Sequence[Row], x: Sequence[Any]) -> list[Point]:
    return [Point(at, row.value, row.low, row.high) for at, row in zip(x, rows, strict=True)]


def around(rows: Sequence[Row], x: Sequence[Any]) -> list[Point]:
    """The controls, where there are any: their mean, and the lowest and highest of them."""
    found = [(at, row.control, row.control_min, row.control_max) for at, row in zip(x, rows, strict=True)]
    return [Point(at, mean, low, high) for at, mean, low, high in found if None not in (mean, low, high)]  # type: ignore[arg-type]


def loads(row: Row) -> str:
    """What the experts named and those of the controls get of the evaluated tokens."""
    if row.load is None or row.control_load_min is None or row.control_load_max is None:
        return "loads unknown"
    ends = dict.fromkeys(f"{100 * one:.0f}" for one in (row.control_load_min, row.control_load_max))
    return f"load {100 * row.load:.0f} %, theirs {' to '.join(ends)} %"


def controlled(row: Row, what: str, scale: float = 100, digits: int = 0, unit: str = " %") -> str:
    """What the controls give, and the difference from them; or why there are none."""
    if row.control is None:
        return f"{row.control_note or 'there are no controls'}"
    values = [scale * (v or 0) for v in (row.control, row.control_min, row.control_max)]
    beyond = [scale * (v or 0) for v in (row.beyond, row.beyond_low, row.beyond_high)]
    sizes = f"; {row.control_sizes}" if row.control_sizes else ""
    points = " points" if unit == " %" else unit
    return (
        f"{row.controls} {row.control_kind} control{'' if row.controls == 1 else 's'} ({what}; {loads(row)}{sizes}): "
        f"{values[0]:.{digits}f}{unit} ({values[1]:.{digits}f} to {values[2]:.{digits}f}), so the difference from them "
        f"is {beyond[0]:+.{digits}f}{points} [{beyond[1]:+.{digits}f}, {beyond[2]:+.{digits}f}], "
        f"{said(row.p_control_holm)}"
    )


def experts_of(found: Evaluation, arm: str) -> str:
    return ", ".join(str(e).replace(".", "·") for e in found.arms[arm][0]["experts"])


def verdict(found: bool | None, claim: str) -> str:
    """None: there is nothing to compare with."""
    return f"Not known: {claim}." if found is None else f"Found: {claim}." if found else f"Not found: {claim}."


def more_than_controls(row: Row, sign: int) -> bool | None:
    """Is it more than the controls do? None where there are none."""
    return None if row.control is None else beyond(row, sign)
