"""A fact, and how its numbers are spelled."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FEWEST_SEQUENCES = 5  # fewer say too little about how much others would differ


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact: a headline, the sentence with its numbers, and the command to look further.

    `value` is its main number in `unit`, with the 95 % interval where there is one, over `n_tokens` tokens.
    """

    title: str
    text: str
    command: str
    value: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    unit: str = ""
    n_tokens: int | None = None


def command_about(trace: Any, run_id: int) -> str:
    """TRACE as one would type it here, with --run where another run would be taken without it."""
    path = Path(trace.path).resolve()
    shown = shlex.quote(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))
    return shown if int(trace.run(None)["run_id"]) == run_id else f"{shown} --run {run_id}"


def number(row: Any, column: str, digits: int = 2) -> str:
    """`0.74` or, where the row has an interval, `0.74 [0.73, 0.75]`."""
    shown = f"{row[column]:.{digits}f}"
    if not has_interval(row):
        return shown
    return f"{shown} [{row['ci_low']:.{digits}f}, {row['ci_high']:.{digits}f}]"


def percent(row: Any, column: str) -> str:
    """`10 %` or `10 % [9, 11]`."""
    shown = f"{100 * row[column]:.0f} %"
    return f"{shown} [{100 * row['ci_low']:.0f}, {100 * row['ci_high']:.0f}]" if has_interval(row) else shown


def has_interval(row: Any) -> bool:
    """Whether the row holds a known interval."""
    return "ci_low" in row and row["ci_low"] == row["ci_low"] and row["ci_high"] == row["ci_high"]


def measured(row: Any, column: str, unit: str) -> dict[str, Any]:
    """The fields value, ci_low, ci_high, unit and n_tokens of a Finding, from a row of a metric's table."""
    ends = (float(row["ci_low"]), float(row["ci_high"])) if has_interval(row) else (None, None)
    value = float(row[column])
    fields = {"value": value if math.isfinite(value) else None, "ci_low": ends[0], "ci_high": ends[1]}
    return {**fields, "unit": unit, "n_tokens": int(row["n_tokens"])}


def listed(parts: Sequence[str]) -> str:
    """`a, b and c`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def span(low: Any, high: Any, text: str = "{:.2f}") -> str:
    """`0.2 to 0.4`, or one number where both read the same."""
    ends = text.format(low), text.format(high)
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"
