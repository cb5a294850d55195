"""Entropy and margin by layer and label from the aggregates; the least certain tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from store.page_queries.narrow import Only, among, only

if TYPE_CHECKING:
    import pandas as pd


def label_uncertainty(trace: Any, run_id: int) -> pd.DataFrame:
    """layer, label (None: without one), n_entropy, sum_entropy (nats), n_margin, sum_margin, from the aggregates."""
    return trace.sql(
        """SELECT layer, label, n_entropy, sum_entropy, n_margin, sum_margin FROM layer_stats
           WHERE run_id = ? AND n_entropy + n_margin > 0 ORDER BY layer, label""",
        [run_id],
    )


def sequence_uncertainty(trace: Any, run_id: int, sequences: Sequence[int]) -> pd.DataFrame:
    """layer, sequence_id, n_entropy, sum_entropy, n_margin, sum_margin of each of the sequences."""
    return trace.sql(
        """SELECT layer, sequence_id, count(entropy) AS n_entropy, coalesce(sum(entropy), 0) AS sum_entropy,
                  count(margin) AS n_margin, coalesce(sum(margin), 0) AS sum_margin
           FROM routing WHERE run_id = $run AND sequence_id IN (SELECT unnest($sequences::INTEGER[]))
           GROUP BY layer, sequence_id""",
        {"run": run_id, "sequences": list(sequences)},
    )


def token_entropies(trace: Any, run_id: int, layer: int | None, sequences: Only, fewest: int) -> pd.DataFrame:
    """token_id, token, entropy (nats, mean over occurrences), n: the least certain first; of all layers for None.

    sequences: None for all of the run.
    """
    return trace.sql(
        f"""SELECT t.token_id, min(t.token) AS token, avg(r.entropy) AS entropy,
                  CAST(count(*) / count(DISTINCT r.layer) AS BIGINT) AS n
           FROM routing r JOIN tokens t USING (run_id, sequence_id, position)
           WHERE run_id = $run AND ($layer IS NULL OR layer = $layer) AND entropy IS NOT NULL
             {only(sequences)}
           GROUP BY t.token_id, CASE WHEN t.token_id IS NULL THEN t.token END
           HAVING n >= $fewest ORDER BY entropy DESC, t.token_id""",  # noqa: S608 (a constant condition)
        among(sequences, {"run": run_id, "layer": layer, "fewest": fewest}),
    )


def uncertain_contexts(
    trace: Any, run_id: int, layer: int | None, sequences: Only, around: int, most: int
) -> pd.DataFrame:
    """sequence_id, label, position, entropy, tokens (a list), first (the position of the first of them).

    The least certain occurrence of each token, with `around` tokens on both sides; the highest entropy first (nats, the
    mean over layers where none is named), at most `most`. sequences: None for all of the run.
    """
    return trace.sql(
        f"""WITH unsure AS (
               SELECT sequence_id, position, avg(entropy) AS entropy FROM routing
               WHERE run_id = $run AND ($layer IS NULL OR layer = $layer) AND entropy IS NOT NULL
                 {only(sequences)}
               GROUP BY sequence_id, position
           ), top AS (
               SELECT u.* FROM unsure u
               JOIN tokens t ON t.run_id = $run AND t.sequence_id = u.sequence_id AND t.position = u.position
               QUALIFY row_number() OVER (
                   PARTITION BY coalesce(CAST(t.token_id AS VARCHAR), t.token) ORDER BY u.entropy DESC, 1, 2) = 1
               ORDER BY entropy DESC, u.sequence_id, u.position LIMIT $most
           )
           SELECT f.sequence_id, any_value(s.label) AS label, f.position, any_value(f.entropy) AS entropy,
                  list(coalesce(t.token, '[' || t.token_id || ']') ORDER BY t.position) AS tokens,
                  min(t.position) AS first
           FROM top f JOIN tokens t ON t.run_id = $run AND t.sequence_id = f.sequence_id
                AND t.position BETWEEN f.position - $around AND f.position + $around
           JOIN sequences s ON s.run_id = $run AND s.sequence_id = f.sequence_id
           GROUP BY f.sequence_id, f.position ORDER BY entropy DESC, f.sequence_id, f.position""",  # noqa: S608 (a constant condition)
        among(sequences, {"run": run_id, "layer": layer, "around": around, "most": most}),
    )
