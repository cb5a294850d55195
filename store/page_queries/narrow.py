"""Which sequences a query reads: those named, or all of the run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Only = Sequence[int] | None  # None: all of them, as what is largest or smallest needs


def only(sequences: Only) -> str:
    """A condition on sequence_id; nothing for all."""
    return "" if sequences is None else "AND sequence_id IN (SELECT unnest($sequences::INTEGER[]))"


def among(sequences: Only, values: dict[str, Any]) -> dict[str, Any]:
    """The query's values, with those that the condition needs."""
    return values if sequences is None else values | {"sequences": list(sequences)}
