"""Values with their intervals as an SVG of its own: points with whiskers, joined where the axis is a number."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from xml.sax.saxutils import escape

from probes.errors import ProbeError

# Okabe and Ito's palette: told apart by colour-blind readers too; the shapes say it a second time.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999", "#000000")
SHAPES = ("circle", "square", "triangle", "diamond")
WIDTH, HEIGHT = 640, 340
LEFT, RIGHT, TOP, BOTTOM = 64, 190, 40, 56


@dataclass(frozen=True)
class Point:
    """One value at x (a number or a name), between low and high."""

    x: float | str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Series:
    """Points that belong together; `joined` by a line."""

    name: str
    points: Sequence[Point]
    joined: bool = False


def chart(title: str, x: str, y: str, series: Sequence[Series], *, log: bool = False) -> str:
    """One picture of all series; `log`: x on a logarithmic scale. ProbeError where there is nothing to draw."""
    points = [p for one in series for p in one.points if math.isfinite(p.value)]
    if not points:
        raise ProbeError(f"{title}: there is nothing to draw")
    axis = _Axis(points, log)
    lines = [_text(LEFT, 22, title, size=14), *_frame(axis, x, y)]
    for number, one in enumerate(series):
        lines += _series(one, number, len(series), axis)
        lines += _legend(one.name, number)
    style = 'font-family="sans-serif" font-size="11" fill="#222"'
    inner = "".join(lines)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" {style} role="img">'
    return f'{head}<title>{escape(title)}</title><rect width="100%" height="100%" fill="#fff"/>{inner}</svg>'


def save_chart(path: str | Path, *args: object, **kwargs: object) -> None:
    """Writes `chart(...)` to a file."""
    Path(path).write_text(chart(*args, **kwargs), encoding="utf-8")  # type: ignore[arg-type]


class _Axis:
    """Where values lie in the picture."""

    def __init__(self, points: Sequence[Point], log: bool) -> None:
        self.names = list(dict.fromkeys(p.x for p in points if isinstance(p.x, str)))
        self.log = log
        self.numbers = sorted({float(p.x) for p in points if not isinstance(p.x, str)})
        low = min(min(p.low, p.value) for p in points)
        high = max(max(p.high, p.value) for p in points)
        room = 0.06 * (high - low) or 0.5
        # Shares end where they end.
        self.low = low if low == 0 else low - room
        self.high = high if high == 1 else high + room

    def x(self, value: float | str) -> float:
        if isinstance(value, str):
            step = (WIDTH - LEFT - RIGHT) / len(self.names)
            return LEFT + (self.names.index(value) + 0.5) * step
        ends = [self._scaled(v) for v in (self.numbers[0], self.numbers[-1])]
        share = (self._scaled(float(value)) - ends[0]) / ((ends[1] - ends[0]) or 1)
        return LEFT + 14 + share * (WIDTH - LEFT - RIGHT - 28)

    def y(self, value: float) -> float:
        share = (value - self.low) / ((self.high - self.low) or 1)
        return HEIGHT - BOTTOM - min(max(share, 0), 1) * (HEIGHT - TOP - BOTTOM)

    def _scaled(self, value: float) -> float:
        return math.log(value) if self.log else value


def _frame(axis: _Axis, x: str, y: str) -> Iterator[str]:
    box = f'x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" height="{HEIGHT - TOP - BOTTOM}"'
    yield f'<rect {box} fill="none" stroke="#999"/>'
    for tick in _ticks(axis.low, axis.high):
        at = axis.y(tick)
        yield f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="#eee"/>'
        yield _text(LEFT - 6, at + 4, f"{tick:g}", anchor="end")
    for value in axis.names or axis.numbers:
        yield _text(axis.x(value), HEIGHT - BOTTOM + 16, value if isinstance(value, str) else f"{value:g}", "middle")
    yield _text(LEFT + (WIDTH - LEFT - RIGHT) / 2, HEIGHT - 16, x, anchor="middle")
    middle = TOP + (HEIGHT - TOP - BOTTOM) / 2
    yield f'<text transform="translate(16 {middle:.0f}) rotate(-90)" text-anchor="middle">{escape(y)}</text>'


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers between the ends."""
    span = high - low
    step = 10 ** math.floor(math.log10(span / 4))
    step *= next(f for f in (1, 2, 5, 10) if span / (step * f) <= 6)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _series(one: Series, number: int, count: int, axis: _Axis) -> Iterator[str]:
    colour, shift = COLOURS[number % len(COLOURS)], (number - (count - 1) / 2) * (7 if axis.names else 3)
    points = [p for p in one.points if math.isfinite(p.value)]
    places = [(axis.x(p.x) + shift, axis.y(p.value)) for p in points]
    if one.joined:
        for (a, b), (c, d) in pairwise(places):
            line = f'x1="{a:.1f}" y1="{b:.1f}" x2="{c:.1f}" y2="{d:.1f}"'
            yield f'<line {line} stroke="{colour}" stroke-opacity="0.5"/>'
    for point, (at, height) in zip(points, places, strict=True):
        whisker = f'x1="{at:.1f}" x2="{at:.1f}" y1="{axis.y(point.low):.1f}" y2="{axis.y(point.high):.1f}"'
        said = f"{one.name}, {point.x}: {point.value:.4g} [{point.low:.4g}, {point.high:.4g}]"
        yield f'<g><title>{escape(said)}</title><line {whisker} stroke="{colour}" stroke-width="1.5"/>'
        yield f"{_mark(at, height, number)}</g>"


def _mark(x: float, y: float, number: int) -> str:
    colour, shape = COLOURS[number % len(COLOURS)], SHAPES[number % len(SHAPES)]
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>'
    corners = {
        "square": ((-3.5, -3.5), (3.5, -3.5), (3.5, 3.5), (-3.5, 3.5)),
        "triangle": ((0, -4.5), (4.2, 3.5), (-4.2, 3.5)),
        "diamond": ((0, -5), (5, 0), (0, 5), (-5, 0)),
    }[shape]
    return f'<polygon points="{" ".join(f"{x + a:.1f},{y + b:.1f}" for a, b in corners)}" fill="{colour}"/>'


def _legend(name: str, number: int) -> Iterator[str]:
    y = TOP + 10 + 18 * number
    yield _mark(WIDTH - RIGHT + 14, y, number)
    yield _text(WIDTH - RIGHT + 24, y + 4, name)


def _text(x: float, y: float, text: str, anchor: str = "start", size: int = 11) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{escape(str(text))}</text>'
