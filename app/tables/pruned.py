"""What pruning costs, as `probe eval --out FILE` measured it: curves over the share of experts kept."""

from __future__ import annotations

import json
import math
from typing import Any

import pandas as pd

from probes.errors import UsageError

COLUMNS = ["task", "measure", "unit", "criterion", "keep", "value", "low", "high", "n", "baseline", "control"]
COLUMNS += ["control_kind"]
RECIPE = "expert_importance"
MOST = 8 << 20  # bytes of a result that is read


def curves(body: bytes) -> pd.DataFrame:
    """One row per task, measure, criterion and share kept; UsageError for a file that holds no such evaluation."""
    rows = [_row(row) for row in _rows(body)]
    found = pd.DataFrame([row for row in rows if row is not None], columns=COLUMNS)
    if found.empty:
        raise UsageError(
            "this result holds no pruning; evaluate with --from TRACE and "
            "--intervention expert_importance:criterion=reap,keep=0.5"
        )
    return found.sort_values(["task", "measure", "criterion", "keep"], ignore_index=True)


def _rows(body: bytes) -> list[dict[str, Any]]:
    if len(body) > MOST:
        raise UsageError(f"this file is larger than {MOST >> 20} MiB; a result of probe eval is not")
    try:
        found = json.loads(body)
        rows = found["rows"]
        return [row for row in rows if isinstance(row, dict)]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UsageError("this is no result of probe eval --out FILE (JSON with rows)") from None


def _row(row: dict[str, Any]) -> dict[str, Any] | None:
    """The row with its criterion and share, where its arm is a keep-list made by the recipe and was measured."""
    recipe, _, words = str(row.get("arm", "")).partition(":")
    if recipe != RECIPE:
        return None
    options = dict(pair.split("=", 1) for pair in words.split(",") if "=" in pair)
    try:
        keep = float(options.get("keep", 0.75))
        numbers = {name: _number(row.get(name)) for name in ("value", "low", "high", "n", "baseline", "control")}
    except (TypeError, ValueError):
        return None
    if not all(map(math.isfinite, (keep, numbers["value"], numbers["n"]))):
        return None
    texts = {name: str(row.get(name, "")) for name in ("task", "measure", "unit")}
    # Results of earlier versions do not say it: their controls were all of as many experts.
    texts["control_kind"] = str(row.get("control_kind") or "count-matched")
    return {**texts, "criterion": options.get("criterion", "reap"), "keep": keep, **numbers}


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)
