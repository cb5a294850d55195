"""A metric's table as text: JSON, CSV, Markdown, or aligned columns."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

FORMATS = ("table", "json", "csv", "markdown")


def as_object(frame: pd.DataFrame) -> dict[str, Any]:
    """{"metric", "params", "run_id", "columns", "rows"} of an analysed table; NaN becomes None."""
    head = {name: frame.attrs[name] for name in ("metric", "params", "run_id", "columns")}
    return {**head, "rows": rows(frame)}


def rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as objects of values that JSON can hold; NaN becomes None."""
    columns = [[_plain(v) for v in frame[name].tolist()] for name in frame.columns]
    return [dict(zip(frame.columns, row, strict=True)) for row in zip(*columns, strict=True)]


def _plain(value: Any) -> Any:
    import pandas as pd

    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(v) for v in value]
    if value is None or value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value.item() if isinstance(value, np.generic) else value


def render(frame: pd.DataFrame, format: str = "table") -> str:
    """The table as text in one of FORMATS."""
    if format == "json":
        return json.dumps(as_object(frame), ensure_ascii=False, allow_nan=False)
    if format == "csv":
        return frame.to_csv(index=False).rstrip("\n")
    if format == "markdown":
        return _markdown(frame)
    return frame.to_string(index=False, na_rep="-", max_rows=None) if len(frame) else "(no rows)"


def _markdown(frame: pd.DataFrame) -> str:
    cells = [[_cell(v) for v in row] for row in frame.itertuples(index=False)]
    lines = [list(frame.columns), ["---"] * len(frame.columns), *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: Any) -> str:
    value = _plain(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else str(value).replace("\\", "\\\\").replace("|", "\\|").replace("\n", "\\n")
