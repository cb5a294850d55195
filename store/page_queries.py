"""The questions the dashboard's pages ask, over the public views: a trace in, a DataFrame out.

Every question names its run, and reads one sequence, one layer or the small aggregates where it can.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

SEQUENCE_COLUMNS = "sequence_id, label, source, n_tokens, left(text, 120) AS beginning"


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


def sequences(trace: Any, run_id: int, words: str, label: str | None, limit: int) -> pd.DataFrame:
    """Sequences whose text, source or number holds `words`, of one label if given; at most `limit`, in order."""
    return trace.sql(
        f"""SELECT {SEQUENCE_COLUMNS}, count(*) OVER () AS n_found FROM sequences
            WHERE run_id = $run AND ($label IS NULL OR label = $label)
              AND ($words = '' OR contains(lower(coalesce(text, '')), lower($words))
                   OR contains(lower(coalesce(source, '')), lower($words))
                   OR CAST(sequence_id AS VARCHAR) = $words)
            ORDER BY sequence_id LIMIT $most""",  # noqa: S608 (a constant list of columns)
        {"run": run_id, "label": label, "words": words.strip(), "most": limit},
    )


def sequence(trace: Any, run_id: int, sequence_id: int) -> pd.DataFrame:
    """The one sequence, or no row."""
    return trace.sql(
        f"SELECT {SEQUENCE_COLUMNS} FROM sequences WHERE run_id = ? AND sequence_id = ?",  # noqa: S608
        [run_id, sequence_id],
    )


def labels(trace: Any, run_id: int) -> pd.DataFrame:
    """label, n_sequences; the labels in order of their names."""
    return trace.sql(
        """SELECT label, count(*) AS n_sequences FROM sequences WHERE run_id = ? AND label IS NOT NULL
           GROUP BY label ORDER BY label""",
        [run_id],
    )


def tokens(trace: Any, run_id: int, sequence_id: int, layer: int, first: int, most: int) -> pd.DataFrame:
    """A window of a sequence with what one layer did: position, token, phase, experts, weights, entropy, margin …

    Tokens that the layer has no row for are there too, with nothing in the layer's columns.
    """
    return trace.sql(
        """SELECT t.position, t.token_id, t.token, CAST(t.phase AS VARCHAR) AS phase, t.logprob, t.predicted_id,
                  r.experts, r.weights, r.entropy, r.margin, CAST(r.missing_reason AS VARCHAR) AS missing_reason
           FROM (SELECT * FROM tokens WHERE run_id = $run AND sequence_id = $sequence
                 ORDER BY position LIMIT $most OFFSET $first) t
           LEFT JOIN (SELECT * FROM routing WHERE run_id = $run AND sequence_id = $sequence AND layer = $layer) r
             ON r.position = t.position ORDER BY t.position""",
        {"run": run_id, "sequence": sequence_id, "layer": layer, "first": first, "most": most},
    )


def positions(trace: Any, run_id: int, sequence_id: int) -> pd.DataFrame:
    """position of every token of the sequence, in order."""
    return trace.sql(
        "SELECT position FROM tokens WHERE run_id = ? AND sequence_id = ? ORDER BY position", [run_id, sequence_id]
    )


def token_layers(trace: Any, run_id: int, sequence_id: int, position: int) -> pd.DataFrame:
    """One token through all layers: layer, experts, weights, output_norms, entropy, margin, missing_reason."""
    return trace.sql(
        """SELECT layer, experts, weights, output_norms, entropy, margin,
                  CAST(missing_reason AS VARCHAR) AS missing_reason
           FROM routing WHERE run_id = ? AND sequence_id = ? AND position = ? ORDER BY layer""",
        [run_id, sequence_id, position],
    )


def sequence_layers(trace: Any, run_id: int, sequence_id: int) -> pd.DataFrame:
    """layer, entropy, margin (means over the sequence's tokens that have them), n."""
    return trace.sql(
        """SELECT layer, avg(entropy) AS entropy, avg(margin) AS margin, count(entropy) AS n FROM routing
           WHERE run_id = ? AND sequence_id = ? GROUP BY layer ORDER BY layer""",
        [run_id, sequence_id],
    )
