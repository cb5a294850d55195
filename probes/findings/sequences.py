"""Facts that a query over the run's routing answers: sums per sequence, and the tokens at the top."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from probes.findings.finding import Finding
from probes.metrics.bootstrap import Weights, interval
from probes.metrics.tables import ratio
from store import finding_queries

if TYPE_CHECKING:
    import pandas as pd

    from probes.findings.stored import Stored

SHOWN_TOKENS = 3
_BLOCK = 4096  # sequences


def resampled_sums(sums: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """[resamples, ...]: the sum of `sums` [S, ...] over S sequences drawn with replacement, per resample."""
    weights = Weights(len(sums), resamples, seed)
    flat, total = sums.reshape(len(sums), -1), np.zeros((resamples, sums[0].size))
    for first in range(0, len(sums), _BLOCK):
        part = flat[first : first + _BLOCK]
        total += weights.take(len(part)) @ part
    return total.reshape(resamples, *sums.shape[1:])


def entropy_intervals(at: Stored, frame: pd.DataFrame, resamples: int, seed: int) -> pd.DataFrame:
    """The table of entropies with ci_low and ci_high."""
    rows = finding_queries.sequence_entropy(at.trace, at.run_id)
    if not len(rows):
        return frame
    sums = np.zeros((rows["sequence_id"].nunique(), 2, at.about.num_layers))
    sequence = np.unique(rows["sequence_id"], return_inverse=True)[1]
    layer = np.searchsorted(at.about.layers, rows["layer"])
    sums[sequence, 0, layer], sums[sequence, 1, layer] = rows["sum_entropy"], rows["n_entropy"]
    drawn = resampled_sums(sums, resamples, seed)
    low, high = interval(frame["entropy_mean"].to_numpy(), ratio(drawn[:, 0], drawn[:, 1]))
    return frame.assign(ci_low=low, ci_high=high)


def lift_interval(at: Stored, pair: Any, resamples: int, seed: int) -> Any:
    """The pair's row with ci_low and ci_high of its lift."""
    experts = int(pair["expert"]), int(pair["other"])
    sums = finding_queries.sequence_pair(at.trace, at.run_id, int(pair["layer"]), *experts).to_numpy(np.float64)
    n, first, other, both = np.moveaxis(resampled_sums(sums, resamples, seed), -1, 0)
    low, high = interval(np.array(pair["lift"]), ratio(both * n, first * other))
    row = pair.copy()
    row["ci_low"], row["ci_high"] = float(low), float(high)
    return row


def uncertain_tokens(at: Stored) -> Iterator[Finding]:
    """The tokens whose routing is least certain, on the mean over layers."""
    rows = finding_queries.uncertain_tokens(at.trace, at.run_id, SHOWN_TOKENS)
    if not len(rows):
        return
    spelled = "; ".join(
        f"{row.token!r} (sequence {row.sequence_id}, position {row.position}): {row.entropy:.2f} nats"
        for row in rows.itertuples()
    )
    text = f"{spelled}. Mean over {int(rows['n_layers'].iloc[0])} layers; n = {int(rows['n_tokens'].iloc[0]):,} tokens."
    fields: dict[str, Any] = {
        "value": float(rows["entropy"].iloc[0]),
        "unit": "nats",
        "n_tokens": int(rows["n_tokens"].iloc[0]),
    }
    command = f"probe analyze routing_entropy {at.where} --by token"
    yield Finding("The most uncertain tokens", text, command, **fields)
