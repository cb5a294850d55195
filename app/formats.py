"""Numbers and dates as people read them."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

NOTHING = "–"


def count(value: float | None) -> str:
    """1234567 -> 1,234,567."""
    return NOTHING if _missing(value) else f"{int(value):,}"  # type: ignore[arg-type]


def short_count(value: float | None) -> str:
    """1234567 -> 1.23 M: for tiles, where the exact number stands beside it."""
    if _missing(value):
        return NOTHING
    assert value is not None
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e4)):
        if abs(value) >= size:
            scaled = value / (1e3 if unit == "k" else size)
            return f"{scaled:.3g} {unit}" if scaled < 1000 else f"{scaled:,.0f} {unit}"
    return count(value)


def number(value: float | None, digits: int = 3) -> str:
    """Three significant digits, without an exponent where a person would not write one."""
    if _missing(value):
        return NOTHING
    assert value is not None
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) < 1e-3:
        return f"{value:.2g}"
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


def percent(share: float | None) -> str:
    """0.1234 -> 12.3 % (the space does not break); a share that is small but not nothing never reads 0 %."""
    if _missing(share):
        return NOTHING
    assert share is not None
    if 0 < share < 0.001:
        return "< 0.1\u00a0%"
    if 0.999 < share < 1:
        return "> 99.9\u00a0%"
    return f"{100 * share:.3g}\u00a0%"


def size(n_bytes: int) -> str:
    """Bytes in the largest unit that leaves at least one: 1.5 MiB."""
    value = float(n_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("the last unit takes everything")


def date(value: Any) -> str:
    """22 Nov 2025, 08:03; text that is no date stays as it is."""
    if value is None or value != value:
        return NOTHING
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return value
    return f"{value.day} {value:%b %Y, %H:%M}"


def plural(n: float, one: str, many: str | None = None) -> str:
    """`1 token`, `1,234 tokens`."""
    return f"{count(n)} {one if n == 1 else many or one + 's'}"


def _missing(value: float | None) -> bool:
    return value is None or value != value


def control_name(kind: str) -> str:
    """What a control is called, by what it has in common with the intervention.

    >>> control_name("load-matched"), control_name("random choice"), control_name("")
    ('load-matched random control', 'random choice control', 'random control')
    """
    return f"{kind} control" if "random" in kind else f"{kind} random control".strip()
