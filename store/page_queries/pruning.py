"""What of a run's outputs was kept: which criteria of importance it can answer."""

from __future__ import annotations

from typing import Any


def kept_outputs(trace: Any, run_id: int) -> set[str]:
    """Of weights, norms, maxima, similarity and moments, those the run has anything of."""
    row = trace.sql(
        """SELECT coalesce(bool_or(sum_weight > 0), false) AS weights,
                  coalesce(bool_or(n_norm > 0), false) AS norms,
                  coalesce(bool_or(max_abs_output >= 0), false) AS maxima,
                  EXISTS(SELECT 1 FROM hidden WHERE run_id = $run AND similarity IS NOT NULL) AS similarity,
                  EXISTS(SELECT 1 FROM expert_outputs WHERE run_id = $run AND n_tokens > 1) AS moments
           FROM expert_stats WHERE run_id = $run""",
        {"run": run_id},
    ).iloc[0]
    return {str(name) for name, there in row.items() if bool(there)}
