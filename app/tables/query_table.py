"""Rows of somebody's query as a table that can be shown: distinct names, numbers as numbers, all else as text."""

from __future__ import annotations

from typing import Any

import pandas as pd

from store.render import cell
from store.sandbox import Result


def frame_of(result: Result) -> pd.DataFrame:
    """A DataFrame with a column for each of the result's; two columns of one name get a number each."""
    columns = [_column(column) for column in result.rows.columns]
    return pd.DataFrame(dict(zip(distinct(result.columns), columns, strict=True)))


def distinct(names: list[str]) -> list[str]:
    """The names, the later of equal ones numbered.

    >>> distinct(["n", "n", "n_2"])
    ['n', 'n_2', 'n_2_2']
    """
    seen: list[str] = []
    for name in names:
        new, number = name, 1
        while new in seen:
            number += 1
            new = f"{name}_{number}"
        seen.append(new)
    return seen


def numeric(frame: pd.DataFrame) -> list[str]:
    """The columns that can be drawn as amounts."""
    kinds = frame.dtypes.items()
    return [
        str(name)
        for name, kind in kinds
        if pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_bool_dtype(kind)
    ]


def _column(column: Any) -> pd.Series:
    """Whole numbers stay whole where some are NULL; what is no number is shown as `probe sql` shows it."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_integer(kind):
        return pd.Series(column.to_pandas(), dtype="Int64" if not pa.types.is_unsigned_integer(kind) else "UInt64")
    if pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        return column.to_pandas()
    if pa.types.is_decimal(kind):
        return pd.Series([None if value is None else float(value) for value in column.to_pylist()], dtype="float64")
    return pd.Series([None if value is None else cell(value) for value in column.to_pylist()], dtype="object")
