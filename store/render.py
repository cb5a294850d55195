"""Rows of a query as text or bytes: a table for people, JSON, JSON lines, CSV, Markdown, Parquet."""

from __future__ import annotations

import csv
import io
import json
import math
import unicodedata
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from store.sandbox import Result

FORMATS = ("table", "json", "jsonl", "csv", "markdown", "parquet")
WIDTH = 60


def render(result: Result, form: str) -> bytes:
    """The rows in the given format, UTF-8 (Parquet: the file's bytes)."""
    if form == "parquet":
        return _parquet(result)
    return {"table": _table, "json": _json, "jsonl": _jsonl, "csv": _csv, "markdown": _markdown}[form](result).encode()


def _rows(result: Result) -> list[list[Any]]:
    """Row by row, by position: two columns may have one name."""
    columns = [column.to_pylist() for column in result.rows.columns]
    return [list(row) for row in zip(*columns, strict=True)] if columns else []


def plain(value: Any) -> Any:
    """What JSON can hold: NaN and infinities are null, times ISO, bytes hexadecimal, whole decimals integers."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, timedelta) else value


def _objects(result: Result) -> list[dict[str, Any]]:
    return [dict(zip(result.columns, map(plain, row), strict=True)) for row in _rows(result)]


def _json(result: Result) -> str:
    columns = [{"name": n, "type": t} for n, t in zip(result.columns, result.types, strict=True)]
    answer = {"columns": columns, "rows": _objects(result), "truncated": result.truncated}
    return json.dumps(answer, ensure_ascii=False, allow_nan=False) + "\n"


def _jsonl(result: Result) -> str:
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in _objects(result))


def _csv(result: Result) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(result.columns)
    for row in _rows(result):
        writer.writerow(
            ["" if v is None else json.dumps(v) if isinstance(v, list | dict) else v for v in map(plain, row)]
        )
    return out.getvalue()


def _parquet(result: Result) -> bytes:
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(result.rows, out)
    return out.getvalue()


def cell(value: Any, width: int | None = None) -> str:
    """One value for people: control characters shown, not sent to the terminal; long ones cut."""
    text = "NULL" if value is None else _number(value)
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if width is None or len(text) <= width else text[: width - 1] + "…"


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return "[" + ", ".join("NULL" if v is None else _number(v) for v in value) + "]"
    return str(plain(value)) if isinstance(value, Decimal | bytes | datetime) else str(value)


def _width(text: str) -> int:
    """Columns on a terminal: wide characters take two, combining ones none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _table(result: Result) -> str:
    rows = [[cell(v, WIDTH) for v in row] for row in _rows(result)]
    names = [cell(n, WIDTH) for n in result.columns]
    widths = [max(map(_width, column)) for column in zip(names, *rows, strict=True)]
    right = [isinstance(v, int | float | Decimal) for v in (_rows(result) or [[None] * len(names)])[0]]
    lines = [_line(names, widths, [False] * len(names)), "  ".join("-" * w for w in widths)]
    return "\n".join([*lines, *(_line(row, widths, right) for row in rows)]) + "\n"


def _line(cells: list[str], widths: list[int], right: list[bool]) -> str:
    padded = [
        " " * (w - _width(c)) + c if r else c + " " * (w - _width(c))
        for c, w, r in zip(cells, widths, right, strict=True)
    ]
    return "  ".join(padded).rstrip()


def _markdown(result: Result) -> str:
    def line(cells: list[str]) -> str:
        return "| " + " | ".join(c.replace("\\", "\\\\").replace("|", "\\|") for c in cells) + " |"

    rows = [line([cell(v) for v in row]) for row in _rows(result)]
    return "\n".join([line([cell(n) for n in result.columns]), line(["---"] * len(result.columns)), *rows]) + "\n"
