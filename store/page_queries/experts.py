"""One expert: the tokens that choose it, in context; and what a run holds beside choices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from store.page_queries.narrow import Only, among, only

if TYPE_CHECKING:
    import pandas as pd


def token_counts(trace: Any, run_id: int, layer: int, expert: int, sequences: Only) -> pd.DataFrame:
    """sequence_id, token_id, token, n (occurrences with routing in the layer), chosen (those that chose the expert).

    One row per sequence and token: intervals are over sequences.
    """
    return trace.sql(
        f"""SELECT sequence_id, t.token_id, CASE WHEN t.token_id IS NULL THEN t.token END AS word,
                  min(t.token) AS token, count(*) AS n, count(*) FILTER (list_contains(r.experts, $expert)) AS chosen
           FROM routing r JOIN tokens t USING (run_id, sequence_id, position)
           WHERE run_id = $run AND layer = $layer AND experts IS NOT NULL
             {only(sequences)}
           GROUP BY sequence_id, t.token_id, word ORDER BY ALL""",  # noqa: S608 (a constant condition)
        among(sequences, {"run": run_id, "layer": layer, "expert": expert}),
    )


def token_totals(trace: Any, run_id: int, layer: int, expert: int) -> pd.DataFrame:
    """token_id, token, n, chosen over the whole run: one row per token, as `token_counts` has them per sequence."""
    return trace.sql(
        """SELECT t.token_id, CASE WHEN t.token_id IS NULL THEN t.token END AS word,
                  min(t.token) AS token, count(*) AS n, count(*) FILTER (list_contains(r.experts, $expert)) AS chosen
           FROM routing r JOIN tokens t USING (run_id, sequence_id, position)
           WHERE run_id = $run AND layer = $layer AND experts IS NOT NULL
           GROUP BY t.token_id, word ORDER BY ALL""",
        {"run": run_id, "layer": layer, "expert": expert},
    )


def contexts(trace: Any, run_id: int, layer: int, expert: int, sequences: Only, around: int, most: int) -> pd.DataFrame:
    """sequence_id, label, position, weight, rank, tokens (a list), first (the position of the first of them).

    The token of each sequence that the expert has the largest weight for, with `around` tokens before and after it; the
    heaviest first, at most `most`. sequences: None for all of the run.
    """
    return trace.sql(
        f"""WITH fired AS (
               SELECT sequence_id, position, rank, weight FROM (
                   SELECT sequence_id, position, list_position(experts, $expert) AS rank, weights[rank] AS weight,
                          row_number() OVER (PARTITION BY sequence_id ORDER BY weight DESC NULLS LAST, rank, position)
                          AS place
                   FROM routing WHERE run_id = $run AND layer = $layer AND list_contains(experts, $expert)
                     {only(sequences)}
               ) WHERE place = 1 ORDER BY weight DESC NULLS LAST, rank, sequence_id LIMIT $most
           )
           SELECT f.sequence_id, any_value(s.label) AS label, f.position, any_value(f.weight) AS weight,
                  any_value(f.rank) AS rank, list(coalesce(t.token, '[' || t.token_id || ']') ORDER BY t.position)
                  AS tokens, min(t.position) AS first
           FROM fired f JOIN tokens t ON t.run_id = $run AND t.sequence_id = f.sequence_id
                AND t.position BETWEEN f.position - $around AND f.position + $around
           JOIN sequences s ON s.run_id = $run AND s.sequence_id = f.sequence_id
           GROUP BY f.sequence_id, f.position ORDER BY weight DESC NULLS LAST, rank, f.sequence_id""",  # noqa: S608 (a constant condition)
        among(sequences, {"run": run_id, "layer": layer, "expert": expert, "around": around, "most": most}),
    )


def expert_totals(trace: Any, run_id: int) -> pd.DataFrame:
    """layer, expert, n_tokens, n_first, sum_weight, n_norm, sum_norm, max_abs_output, from the additive aggregates."""
    return trace.sql(
        """SELECT layer, expert, CAST(sum(n_tokens) AS BIGINT) AS n_tokens, CAST(sum(n_first) AS BIGINT) AS n_first,
                  sum(sum_weight) AS sum_weight, CAST(sum(n_norm) AS BIGINT) AS n_norm, sum(sum_norm) AS sum_norm,
                  max(max_abs_output) AS max_abs_output
           FROM expert_stats WHERE run_id = ? GROUP BY layer, expert ORDER BY layer, expert""",
        [run_id],
    )


def recorded(trace: Any, run_id: int) -> dict[str, bool]:
    """What a run holds beside the choices: weights, norms, outputs' maxima, logits, hidden, moments."""
    row = trace.sql(
        """SELECT (SELECT coalesce(sum(sum_weight), 0) <> 0 FROM expert_stats WHERE run_id = $run) AS weights,
                  (SELECT coalesce(sum(n_norm), 0) > 0 FROM expert_stats WHERE run_id = $run) AS norms,
                  (SELECT count(max_abs_output) > 0 FROM expert_stats WHERE run_id = $run) AS maxima,
                  (SELECT coalesce(sum(n_logits), 0) > 0 FROM layer_stats WHERE run_id = $run) AS logits,
                  EXISTS (FROM hidden WHERE run_id = $run) AS hidden,
                  EXISTS (FROM expert_outputs WHERE run_id = $run) AS moments""",
        {"run": run_id},
    )
    return {str(name): bool(value) for name, value in row.iloc[0].items()}
