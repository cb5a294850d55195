"""Tokens and the experts that take them, over some drawn sequences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from store.page_queries.narrow import Only, among, only

if TYPE_CHECKING:
    import pandas as pd


def token_experts(trace: Any, run_id: int, layer: int, sequences: Only, fewest: int, most: int) -> pd.DataFrame:
    """token_id, token, expert (the one that is first most often), share, n (occurrences): the highest share first.

    Only tokens seen at least `fewest` times with routing in these sequences; at most `most` of them. None: all.
    """
    return trace.sql(
        f"""WITH counted AS (
               SELECT t.token_id, CASE WHEN t.token_id IS NULL THEN t.token END AS word, min(t.token) AS token,
                      r.experts[1] AS expert, count(*) AS chosen
               FROM routing r JOIN tokens t USING (run_id, sequence_id, position)
               WHERE run_id = $run AND layer = $layer AND experts IS NOT NULL
                 {only(sequences)}
               GROUP BY t.token_id, word, expert
           ), ranked AS (
               SELECT *, CAST(sum(chosen) OVER (PARTITION BY token_id, word) AS BIGINT) AS n,
                      row_number() OVER (PARTITION BY token_id, word ORDER BY chosen DESC, expert) AS place
               FROM counted
           )
           SELECT token_id, token, expert, chosen / n AS share, n FROM ranked
           WHERE place = 1 AND n >= $fewest ORDER BY share DESC, n DESC, token_id LIMIT $most""",  # noqa: S608 (a constant condition)
        among(sequences, {"run": run_id, "layer": layer, "fewest": fewest, "most": most}),
    )
