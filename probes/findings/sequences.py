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
    rows = finding_queries.sequence_entropy(at.trace, at.run_id, at.sequences)
    if not len(rows):
        return frame
    sums = np.zeros((rows["sequence_id"].nunique(), 2, at.about.num_layers))
    sequence = np.unique(rows["sequence_id"], return_inverse=True)[1]
    layer = np.searchsorted(at.about.layers, rows["layer"])
    sums[sequence, 0, layer], sums[sequence, 1, layer] = rows["sum_entropy"], rows["n_entropy"]
    drawn = resampled_sums(sums, resamples, seed)
    read = ratio(*sums.sum(axis=0))
    low, high = interval(read, ratio(drawn[:, 0], drawn[:, 1]))
    return frame.assign(**_around(frame["entropy_mean"].to_numpy(), read, low, high, at))


def _around(value: Any, read: Any, low: Any, high: Any, at: Stored) -> dict[str, Any]:
    """ci_low and ci_high of the value of the whole run, from the interval around that of the sequences read."""
    if at.sequences is None:
        return {"ci_low": low, "ci_high": high}
    shrink = np.sqrt(at.share)
    return {"ci_low": value + (low - read) * shrink, "ci_high": value + (high - read) * shrink}


def lift_interval(at: Stored, pair: Any, resamples: int, seed: int) -> Any:
    """The pair's row with ci_low and ci_high of its lift_distinct.

    The resampled figure is the published lift; what distinct choices make of it depends on the loads alone, which
    vary little beside the pair's count, and is that of the whole run in every resample.
    """
    experts = int(pair["expert"]), int(pair["other"])
    rows = finding_queries.sequence_pair(at.trace, at.run_id, int(pair["layer"]), *experts, at.sequences)
    sums = rows.to_numpy(np.float64)
    read = _lift(sums.sum(axis=0))
    low, high = interval(read, _lift(resampled_sums(sums, resamples, seed)))
    row = pair.copy()
    for name, end in _around(float(pair["lift"]), read, low, high, at).items():
        row[name] = float(end) * float(pair["lift_distinct"]) / float(pair["lift"])
    return row


def _lift(sums: np.ndarray) -> np.ndarray:
    """p_ij / (p_i p_j), from [..., (tokens, one, other, both)]."""
    n, first, other, both = np.moveaxis(sums, -1, 0)
    return ratio(both * n, first * other)


def uncertain_tokens(at: Stored) -> Iterator[Finding]:
    """The tokens whose routing is least certain, on the mean over layers: of the whole run, whatever else is read."""
    rows = finding_queries.uncertain_tokens(at.trace, at.run_id, SHOWN_TOKENS)
    if not len(rows):
        return
    spelled = "; ".join(f"{_placed(row)}: {row.entropy:.2f} nats" for row in rows.itertuples())
    text = f"{spelled}. Mean over {int(rows['n_layers'].iloc[0])} layers; n = {int(rows['n_tokens'].iloc[0]):,} tokens."
    fields: dict[str, Any] = {
        "value": float(rows["entropy"].iloc[0]),
        "unit": "nats",
        "n_tokens": int(rows["n_tokens"].iloc[0]),
    }
    command = f"probe analyze routing_entropy {at.where} --by token"
    yield Finding("The most uncertain tokens", text, command, **fields)


def _placed(row: Any) -> str:
    """A token and where it is; only where it is, in a trace that was kept without its text."""
    place = f"sequence {row.sequence_id}, position {row.position}"
    return f"{row.token!r} ({place})" if isinstance(row.token, str) else place
