"""Sequences and their tokens: find one, read a window of it, follow one token through the layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from store.page_queries.narrow import Only, among, only

if TYPE_CHECKING:
    import pandas as pd

SEQUENCE_COLUMNS = "sequence_id, label, source, n_tokens, left(text, 120) AS beginning"


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


def firing_sequences(
    trace: Any, run_id: int, layer: int, expert: int, label: str | None, sequences: Only, most: int
) -> pd.DataFrame:
    """sequence_id, label, beginning, n_fired, n_tokens (with routing in the layer): where an expert is chosen most.

    Of the `sequences` (None: of all; and one label, if given), those with the largest share of their tokens first, at
    most `most`; none where it never fires.
    """
    return trace.sql(
        f"""SELECT s.sequence_id, s.label, left(s.text, 120) AS beginning, f.n_fired, f.n_tokens
           FROM (SELECT sequence_id, count(*) FILTER (list_contains(experts, $expert)) AS n_fired, count(*) AS n_tokens
                 FROM routing WHERE run_id = $run AND layer = $layer AND experts IS NOT NULL
                   {only(sequences)} GROUP BY sequence_id) f
           JOIN sequences s ON s.run_id = $run AND s.sequence_id = f.sequence_id
           WHERE f.n_fired > 0 AND ($label IS NULL OR s.label = $label)
           ORDER BY f.n_fired / f.n_tokens DESC, s.sequence_id LIMIT $most""",  # noqa: S608 (a constant condition)
        among(sequences, {"run": run_id, "layer": layer, "expert": expert, "label": label, "most": most}),
    )


def token_logits(trace: Any, run_id: int, sequence_id: int, position: int, layer: int) -> pd.DataFrame:
    """expert, logit, probability, chosen: what the router of one layer made of one token; no row without logits."""
    return trace.sql(
        """SELECT expert, logit, probability, chosen FROM router_logits
           WHERE run_id = ? AND sequence_id = ? AND position = ? AND layer = ? ORDER BY logit DESC, expert""",
        [run_id, sequence_id, position, layer],
    )
