"""The questions behind the findings, over the views: a trace in, sums per sequence or a few rows out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

Only = Sequence[int] | None  # the sequences to look at; None: all of them


def sequence_labels(trace: Any, run_id: int) -> pd.DataFrame:
    """sequence_id, label_id (-1: none) of each sequence that has tokens, in the order `chunks` reads them."""
    return trace.sql(
        "SELECT sequence_id, label_id FROM raw.sequences WHERE run_id = ? AND n_tokens > 0 ORDER BY sequence_id",
        [run_id],
    )


def sequence_entropy(trace: Any, run_id: int, sequences: Only = None) -> pd.DataFrame:
    """sequence_id, layer, n_entropy, sum_entropy (nats) of the tokens whose entropy is known."""
    return trace.sql(
        f"""SELECT sequence_id, layer, count(entropy) AS n_entropy, sum(entropy::DOUBLE) AS sum_entropy
            FROM raw.routing WHERE run_id = $run {_only(sequences)} AND entropy IS NOT NULL
            GROUP BY ALL ORDER BY ALL""",  # noqa: S608 (a constant condition)
        _among(sequences, {"run": run_id}),
    )


def _only(sequences: Only) -> str:
    return "" if sequences is None else "AND sequence_id IN (SELECT unnest($sequences::INTEGER[]))"


def _among(sequences: Only, values: dict[str, Any]) -> dict[str, Any]:
    return values if sequences is None else values | {"sequences": list(sequences)}


def sequence_pair(trace: Any, run_id: int, layer: int, expert: int, other: int, sequences: Only = None) -> pd.DataFrame:
    """n_tokens, n_expert, n_other, n_both: one row per sequence, in order, of tokens with routing in the layer."""
    return trace.sql(
        f"""SELECT count(*) AS n_tokens, count(*) FILTER (list_contains(experts, $expert)) AS n_expert,
                   count(*) FILTER (list_contains(experts, $other)) AS n_other,
                   count(*) FILTER (list_contains(experts, $expert) AND list_contains(experts, $other)) AS n_both
            FROM raw.routing WHERE run_id = $run AND layer = $layer {_only(sequences)} AND experts IS NOT NULL
            GROUP BY sequence_id ORDER BY sequence_id""",  # noqa: S608 (a constant condition)
        _among(sequences, {"run": run_id, "layer": layer, "expert": expert, "other": other}),
    )


def uncertain_tokens(trace: Any, run_id: int, most: int, sequences: Only = None) -> pd.DataFrame:
    """sequence_id, position, entropy (nats, mean over layers), n_layers, n_tokens, token: the highest first."""
    return trace.sql(
        f"""SELECT e.*, t.token FROM (
                SELECT sequence_id, position, avg(entropy) AS entropy, count(*) AS n_layers,
                       count(*) OVER () AS n_tokens
                FROM raw.routing WHERE run_id = $run {_only(sequences)} AND entropy IS NOT NULL
                GROUP BY sequence_id, position ORDER BY 3 DESC, 1, 2 LIMIT $most
            ) e LEFT JOIN tokens t ON t.run_id = $run AND t.sequence_id = e.sequence_id AND t.position = e.position
            ORDER BY e.entropy DESC, 1, 2""",  # noqa: S608 (a constant condition)
        _among(sequences, {"run": run_id, "most": most}),
    )


def numbers_of_experts(trace: Any, run_id: int) -> pd.DataFrame:
    """layer, k, n_tokens: how many tokens have k experts, of those that have any."""
    return trace.sql(
        """SELECT layer, len(experts) AS k, count(*) AS n_tokens FROM raw.routing
           WHERE run_id = ? AND len(experts) > 0 GROUP BY ALL ORDER BY ALL""",
        [run_id],
    )


def token_text(trace: Any, run_id: int, sequence_id: int, position: int) -> str | None:
    """The text of one token."""
    sql = "SELECT token FROM tokens WHERE run_id = ? AND sequence_id = ? AND position = ?"
    found = trace.sql(sql, [run_id, sequence_id, position])
    return found["token"].iloc[0] if len(found) else None
