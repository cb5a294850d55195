"""A metric's table as a picture: an SVG of its own, also inside an HTML page; no plotting library is needed to make it.

Layers and experts become a heat map, sizes and thresholds a line per layer, one value per layer bars; labels, levels
and other names get a panel each.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

import numpy as np

from probes.errors import UsageError
from probes.files import check_writable
from probes.metrics.registry import Metric

if TYPE_CHECKING:
    import pandas as pd

PANELS = ("label", "target", "definition", "policy", "level", "criterion", "a", "b", "token")
AXES = ("cache_size", "p", "gamma", "segment_length")
MOST_PANELS = 12
WIDTH, HEIGHT, EDGE = 460, 300, 56
# A perceptually even ramp from dark to light (viridis' ends and middle), told apart without colour by lightness.
# Characters that no XML document may hold, and tokens do.
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
RAMP = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))


def check_plot(path: str | Path) -> str:
    """The kind of picture that can be written there; an error at once, not after the metric was computed."""
    kind = Path(path).suffix.lower()
    if kind not in (".svg", ".html", ".png"):
        raise UsageError(f"--plot writes .svg, .html or .png, not {str(path)!r}")
    check_writable(path)
    return kind


def save_plot(frame: pd.DataFrame, metric: Metric, path: str | Path) -> None:
    """Writes the table's picture to FILE.svg, FILE.html or FILE.png."""
    kind = check_plot(path)
    picture = svg(frame, metric)
    if kind == ".png":
        from probes.metrics.raster import png

        Path(path).write_bytes(png(picture))
        return
    title = escape(metric.title)
    page = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><body>{picture}</body></html>'
    Path(path).write_text(picture if kind == ".svg" else page, encoding="utf-8")


def svg(frame: pd.DataFrame, metric: Metric) -> str:
    """The picture as one SVG element; refuses a table without rows."""
    if not len(frame):
        raise UsageError("there are no rows to plot")
    value = _value(frame, metric)
    panels = list(_panels(frame))
    shown, across = panels[:MOST_PANELS], min(2, len(panels))
    down = math.ceil(len(shown) / across)
    unit = next((c.unit for c in metric.columns if c.name == value), "")
    more = f"; {MOST_PANELS} of {len(panels)} panels" if len(panels) > MOST_PANELS else ""
    lines = [_text(16, 26, f"{metric.title}: {value} [{unit}]{more}", size=16)]
    for i, (name, part) in enumerate(shown):
        inner = "".join(_panel(part, value, name))
        lines.append(f'<g transform="translate({(i % across) * WIDTH} {40 + (i // across) * HEIGHT})">{inner}</g>')
    lines.append(_text(16, 40 + HEIGHT * down + 6, _caption(frame)))
    size = f'width="{WIDTH * across}" height="{40 + HEIGHT * down + 18}"'
    style = 'font-family="sans-serif" font-size="11" fill="#222"'
    background = '<rect width="100%" height="100%" fill="#fff"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{background}{"".join(lines)}</svg>'


def _caption(frame: pd.DataFrame) -> str:
    """What it rests on."""
    n = frame["n_tokens"].astype(float) if "n_tokens" in frame else None
    if n is None or not n.notna().any():
        return ""
    low, high = (f"{v:,.0f}" for v in (n.min(), n.max()))
    tokens = f"n = {high} tokens" if low == high else f"n = {low} to {high} tokens"
    return f"{tokens}; 95 % bootstrap intervals over sequences" if "ci_low" in frame else tokens


def _value(frame: pd.DataFrame, metric: Metric) -> str:
    if metric.value in frame:
        return metric.value
    named = {*PANELS, *AXES, "layer", "expert", "next_layer", "other"}
    numeric = [c for c in frame.columns if c not in named and frame[c].dtype.kind in "fiu"]
    return numeric[0]


def _panels(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    names = [c for c in PANELS if c in frame and frame[c].nunique(dropna=False) > 1]
    x = _x(frame)
    names += [c for c in AXES if c in frame and c != x and frame[c].nunique() > 1]
    names += ["layer"] if "other" in frame or "next_expert" in frame else []
    if not names:
        yield "", frame
        return
    for key, part in frame.groupby(names, dropna=False, sort=False):
        yield ", ".join(f"{name} {value}" for name, value in zip(names, key, strict=True)), part


def _x(frame: pd.DataFrame) -> str | None:
    return next((c for c in AXES if c in frame and frame[c].nunique() > 1), None)


def _panel(part: pd.DataFrame, value: str, name: str) -> Iterator[str]:
    yield _text(EDGE, 14, name)
    second = next((c for c in ("other", "next_expert") if c in part), None)
    if second or ("expert" in part and part["expert"].notna().any()):
        rows, columns = ("expert", second) if second else ("layer", "expert")
        yield from _heat(part, rows, columns, value)
    elif x := _x(part):
        yield from _lines(part, x, value)
    else:
        yield from _bars(part, value)


def _heat(part: pd.DataFrame, rows: str, columns: str, value: str) -> Iterator[str]:
    table = part.pivot_table(index=rows, columns=columns, values=value, aggfunc="first", dropna=False).astype(float)
    cells = table.to_numpy()
    low, high = _ends(cells)
    h, w = (HEIGHT - 76) / len(table), (WIDTH - EDGE - 20) / table.shape[1]
    for i, j in np.ndindex(*cells.shape):
        at = f'x="{EDGE + j * w:.2f}" y="{24 + i * h:.2f}" width="{w + 0.3:.2f}" height="{h + 0.3:.2f}"'
        yield f'<rect {at} fill="{_colour(cells[i, j], low, high)}"/>'
    yield from _frame(columns, rows)
    yield from _marks([str(c) for c in table.columns], [str(r) for r in table.index], w, h)
    yield _text(WIDTH - 20, 14, f"{low:.3g} (dark) to {high:.3g} (light)", anchor="end")


def _marks(columns: list[str], rows: list[str], w: float, h: float) -> Iterator[str]:
    for j in range(0, len(columns), max(1, len(columns) // 8)):
        yield _text(EDGE + (j + 0.5) * w, HEIGHT - 38, columns[j], anchor="middle")
    for i in range(0, len(rows), max(1, len(rows) // 12)):
        yield _text(EDGE - 5, 28 + (i + 0.5) * h, rows[i], anchor="end")


def _lines(part: pd.DataFrame, x: str, value: str) -> Iterator[str]:
    """One line per layer, dark the first."""
    series = "layer" if "layer" in part else None
    groups = list(part.groupby(series, dropna=False)) if series else [("", part)]
    drawn = [value, *(c for c in ("ci_low", "ci_high") if c in part)]
    xs, ys = _ends(part[x].to_numpy(float)), _ends(part[drawn].astype(float).to_numpy())
    yield from _frame(x, value)
    yield from _scale(xs, ys)
    if len(groups) > 1:
        yield _text(WIDTH - 20, 14, f"layer {groups[0][0]} (dark) to {groups[-1][0]} (light)", anchor="end")
    for _, line in groups if "ci_low" in part else ():
        yield _band(line, x, xs, ys)
    for i, (_, line) in enumerate(groups):
        colour = _colour(i, 0, max(1, len(groups)) * 1.2)
        points = [_point(a, b, xs, ys) for a, b in zip(line[x], line[value].astype(float), strict=True) if b == b]
        for (a, b), (c, d) in pairwise(points):
            yield f'<line x1="{a:.1f}" y1="{b:.1f}" x2="{c:.1f}" y2="{d:.1f}" stroke="{colour}" stroke-width="1.5"/>'


def _band(line: pd.DataFrame, x: str, xs: tuple[float, float], ys: tuple[float, float]) -> str:
    """The intervals along a line, as a grey area."""
    known = line[line["ci_low"].notna() & line["ci_high"].notna()]
    there = [_point(a, b, xs, ys) for a, b in zip(known[x], known["ci_high"].astype(float), strict=True)]
    back = [_point(a, b, xs, ys) for a, b in zip(known[x], known["ci_low"].astype(float), strict=True)]
    corners = " ".join(f"{a:.1f},{b:.1f}" for a, b in (*there, *back[::-1]))
    return f'<polygon points="{corners}" fill="#dddddd"/>'


def _whisker(row: Any, x: float, ys: tuple[float, float]) -> str:
    if "ci_low" not in row or row["ci_low"] != row["ci_low"]:
        return ""
    low, high = (_point(0, float(row[c]), (0, 1), ys)[1] for c in ("ci_low", "ci_high"))
    return f'<line x1="{x:.1f}" y1="{low:.1f}" x2="{x:.1f}" y2="{high:.1f}" stroke="#000" stroke-width="1"/>'


def _bars(part: pd.DataFrame, value: str) -> Iterator[str]:
    names = part["layer"].astype(str).tolist() if "layer" in part else [""] * len(part)
    values = part[value].astype(float).to_numpy()
    ends = _ends(part[[value, *(c for c in ("ci_low", "ci_high") if c in part)]].astype(float).to_numpy())
    low, high = min(0.0, ends[0]), max(0.0, ends[1])
    w = (WIDTH - EDGE - 20) / len(values)
    yield from _frame("layer", value)
    yield from _scale(None, (low, high))
    for i, v in enumerate(values):
        if v == v:
            top, bottom = (_point(0, y, (0, 1), (low, high))[1] for y in (max(v, 0), min(v, 0)))
            at = f'x="{EDGE + (i + 0.15) * w:.1f}" y="{top:.1f}" width="{0.7 * w:.1f}" height="{bottom - top:.1f}"'
            yield f'<rect {at} fill="#3b528b"/>'
            yield _whisker(part.iloc[i], EDGE + (i + 0.5) * w, (low, high))
        if i % max(1, len(values) // 12) == 0:
            yield _text(EDGE + (i + 0.5) * w, HEIGHT - 38, names[i], anchor="middle")


def _scale(xs: tuple[float, float] | None, ys: tuple[float, float]) -> Iterator[str]:
    for y, at in ((ys[0], HEIGHT - 52), (ys[1], 30)):
        yield _text(EDGE - 5, at, f"{y:.3g}", anchor="end")
    for x, at in ((xs[0], EDGE), (xs[1], WIDTH - 20)) if xs else ():
        yield _text(at, HEIGHT - 38, f"{x:g}", anchor="middle")


def _frame(x: str, y: str) -> Iterator[str]:
    box = f'x="{EDGE}" y="24" width="{WIDTH - EDGE - 20}" height="{HEIGHT - 76}"'
    yield f'<rect {box} fill="none" stroke="#999"/>'
    yield _text(EDGE + (WIDTH - EDGE - 20) / 2, HEIGHT - 22, x, anchor="middle")
    turned = f'transform="translate(12 {24 + (HEIGHT - 76) / 2}) rotate(-90)" text-anchor="middle"'
    yield f"<text {turned}>{escape(y)}</text>"


def _point(x: float, y: float, xs: tuple[float, float], ys: tuple[float, float]) -> tuple[float, float]:
    across = (x - xs[0]) / ((xs[1] - xs[0]) or 1)
    up = (y - ys[0]) / ((ys[1] - ys[0]) or 1)
    return EDGE + across * (WIDTH - EDGE - 20), HEIGHT - 52 - up * (HEIGHT - 76)


def _ends(values: np.ndarray) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    return (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)


def _colour(value: float, low: float, high: float) -> str:
    """Grey where there is no value."""
    if not math.isfinite(value):
        return "#ddd"
    place = (value - low) / ((high - low) or 1) * (len(RAMP) - 1)
    i = min(int(place), len(RAMP) - 2)
    mixed = (round(a + (b - a) * (place - i)) for a, b in zip(RAMP[i], RAMP[i + 1], strict=True))
    return "#" + "".join(f"{c:02x}" for c in mixed)


def _text(x: float, y: float, text: Any, anchor: str = "start", size: int = 11) -> str:
    said = escape(NOT_XML.sub("\ufffd", str(text)))
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{said}</text>'
