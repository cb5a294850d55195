"""Load, entropy and coverage of a run, from the additive aggregates or a drawn sample of sequences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def load(trace: Any, run_id: int) -> pd.DataFrame:
    """layer, expert, count: assignments of each expert that was chosen at all, from the additive aggregates."""
    return trace.sql(
        """SELECT layer, expert, CAST(sum(n_tokens) AS BIGINT) AS count FROM expert_stats
           WHERE run_id = ? GROUP BY layer, expert ORDER BY layer, expert""",
        [run_id],
    )


def layer_totals(trace: Any, run_id: int) -> pd.DataFrame:
    """layer, n_tokens (with routing), n_missing, n_entropy, sum_entropy (nats), from the additive aggregates."""
    return trace.sql(
        """SELECT layer, CAST(sum(n_tokens) AS BIGINT) AS n_tokens, CAST(sum(n_missing) AS BIGINT) AS n_missing,
                  CAST(sum(n_entropy) AS BIGINT) AS n_entropy, sum(sum_entropy) AS sum_entropy
           FROM layer_stats WHERE run_id = ? GROUP BY layer ORDER BY layer""",
        [run_id],
    )


def missing(trace: Any, run_id: int) -> pd.DataFrame:
    """layer, reason, n_missing: tokens without routing, per layer and reason; no row where nothing is missing."""
    return trace.sql(
        """SELECT layer, CAST(missing_reason AS VARCHAR) AS reason, count(*) AS n_missing FROM routing
           WHERE run_id = ? AND missing_reason IS NOT NULL GROUP BY ALL ORDER BY ALL""",
        [run_id],
    )


def sampled_entropy(trace: Any, run_id: int, sequences: int) -> pd.DataFrame:
    """layer, sequence_id, n_entropy, sum_entropy for `sequences` of the run's, the ones of `sampled_load`.

    Sums are per sequence because uncertainty is over sequences, not over tokens.
    """
    return trace.sql(
        """WITH drawn AS (SELECT sequence_id FROM sequences WHERE run_id = ? ORDER BY hash(sequence_id) LIMIT ?)
           SELECT layer, sequence_id, count(entropy) AS n_entropy, coalesce(sum(entropy), 0) AS sum_entropy
           FROM routing WHERE run_id = ? AND sequence_id IN (SELECT sequence_id FROM drawn)
           GROUP BY ALL""",
        [run_id, sequences, run_id],
    )


def sampled_load(trace: Any, run_id: int, sequences: int) -> pd.DataFrame:
    """layer, expert, sequence_id, count for `sequences` of the run's sequences, drawn evenly by a fixed hash."""
    return trace.sql(
        """WITH drawn AS (SELECT sequence_id FROM sequences WHERE run_id = ? ORDER BY hash(sequence_id) LIMIT ?)
           SELECT layer, expert, sequence_id, count(*) AS count FROM (
               SELECT layer, sequence_id, unnest(experts) AS expert FROM routing
               WHERE run_id = ? AND sequence_id IN (SELECT sequence_id FROM drawn)
           ) GROUP BY ALL""",
        [run_id, sequences, run_id],
    )
