"""Single tokens by their place: what is written there, and around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def places(trace: Any, run_id: int, sequences: Sequence[int], positions: Sequence[int], around: int) -> pd.DataFrame:
    """sequence_id, position, label, token_id, token, tokens (a list), first (the position of the first of them).

    One row per different place of those in `sequences` and `positions` (side by side) that the run holds.
    """
    return trace.sql(
        """WITH wanted AS (
               SELECT DISTINCT unnest($sequences::INTEGER[]) AS sequence_id, unnest($positions::INTEGER[]) AS position
           ), found AS (
               SELECT * FROM tokens WHERE run_id = $run AND sequence_id IN (SELECT sequence_id FROM wanted)
           )
           SELECT w.sequence_id, w.position, any_value(s.label) AS label,
                  any_value(t.token_id) FILTER (t.position = w.position) AS token_id,
                  any_value(t.token) FILTER (t.position = w.position) AS token,
                  list(coalesce(t.token, '[' || t.token_id || ']') ORDER BY t.position) AS tokens,
                  min(t.position) AS first
           FROM wanted w JOIN found t ON t.sequence_id = w.sequence_id
                AND t.position BETWEEN w.position - $around AND w.position + $around
           JOIN sequences s ON s.run_id = $run AND s.sequence_id = w.sequence_id
           GROUP BY w.sequence_id, w.position ORDER BY w.sequence_id, w.position""",
        {"run": run_id, "sequences": list(sequences), "positions": list(positions), "around": around},
    )
