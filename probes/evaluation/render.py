"""An evaluation as text for people."""

from __future__ import annotations

from collections.abc import Iterator

from probes.evaluation.arms import BASELINE
from probes.evaluation.evaluate import Evaluation
from probes.evaluation.results import Row

SURE = 0.05


def render(found: Evaluation) -> str:
    """A block per task and measure: the baseline, then each arm with its differences."""
    blocks: dict[tuple[str, str], list[Row]] = {}
    for row in found.rows:
        blocks.setdefault((row.task, row.measure), []).append(row)
    lines = [line for (task, measure), rows in blocks.items() for line in _block(task, measure, rows)]
    return "\n".join([*lines, *found.notes])


def _block(task: str, measure: str, rows: list[Row]) -> Iterator[str]:
    yield f"{task}: {measure} ({rows[0].unit}; n = {rows[0].n}; 95 % intervals in brackets)"
    width = max(len(row.arm) for row in rows)
    for row in rows:
        yield f"  {row.arm:<{width}}  {spread(row.value, row.low, row.high)}{_compared(row)}"
    yield ""


def _compared(row: Row) -> str:
    if row.arm == BASELINE:
        return ""
    parts = []
    if row.difference is not None:
        parts.append(f"; from baseline {spread(row.difference, row.difference_low, row.difference_high, '+')}")
        parts.append(f" {_sure(row.p_holm)}")
    if row.control is not None:
        parts.append(f"; {controls_said(row)} {_number(row.control)}")
        parts.append(f" ({_number(row.control_min)} to {_number(row.control_max)}), ")
        parts.append(
            f"beyond them {spread(row.beyond, row.beyond_low, row.beyond_high, '+')} {_sure(row.p_control_holm)}"
        )
    elif row.control_note:
        parts.append(f"; {row.control_note}")
    if row.acted is False:
        parts.append("; never acted")
    return "".join(parts)


def controls_said(row: Row) -> str:
    """How many controls there are, what they have in common with the arm, and what both carry."""
    said = f"{row.controls} {row.control_kind or 'random'} control{'' if row.controls == 1 else 's'}"
    if row.load is None or row.control_load_min is None or row.control_load_max is None:
        return said
    ends = dict.fromkeys(f"{100 * load:.1f}" for load in (row.control_load_min, row.control_load_max))
    sizes = f"; {row.control_sizes}" if row.control_sizes else ""
    return f"{said} (load {100 * row.load:.1f} %, theirs {' to '.join(ends)} %{sizes})"


def _sure(p: float | None) -> str:
    if p is None:
        return ""
    return f"p {'<' if p < 0.001 else '='} {max(p, 0.001):.3f}{' *' if p <= SURE else ''}"


def spread(value: float | None, low: float | None, high: float | None, sign: str = "") -> str:
    """A value with the ends of its interval."""
    return f"{_number(value, sign)} [{_number(low, sign)}, {_number(high, sign)}]"


def _number(value: float | None, sign: str = "") -> str:
    if value is None:
        return "-"
    return format(value, f"{sign}.4f" if abs(value) < 10 else f"{sign}.2f" if abs(value) < 10_000 else f"{sign}.3g")
