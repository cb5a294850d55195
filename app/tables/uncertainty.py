"""Values per layer and label behind the Uncertainty page, with intervals over sequences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from app.tables.intervals import spread


@dataclass(frozen=True)
class Measure:
    """A way to say how sure a router is: of which sums, in what unit, and what its ends mean."""

    title: str
    unit: str
    sums: tuple[str, str]
    meaning: str
    normalized: bool = False
    exponential: bool = False


MEASURES = {
    "entropy": Measure(
        "Entropy ÷ ln E", "", ("sum_entropy", "n_entropy"),
        "H = −Σ p ln p over all experts, mean over tokens, over its largest value: 1 = all alike, 0 = certain.",
        normalized=True,
    ),
    "effective": Measure(
        "Effective experts", "experts", ("sum_entropy", "n_entropy"),
        "= exp(mean H): the number of equally likely experts that would be as undecided.", exponential=True,
    ),
    "margin": Measure(
        "Margin", "", ("sum_margin", "n_margin"),
        "= lowest chosen score minus the best one not chosen, mean over tokens: near 0 the last place was a toss-up.",
    ),
}  # fmt: skip


def value_of(measure: Measure, total: np.ndarray, n: np.ndarray, num_experts: np.ndarray) -> np.ndarray:
    """The measure from sums and counts that broadcast with `num_experts`; NaN where nothing is known."""
    mean = np.divide(total, n, out=np.full(np.broadcast(total, n).shape, np.nan), where=n > 0)
    if measure.normalized:
        return mean / np.log(np.maximum(num_experts, 2))
    return np.exp(mean) if measure.exponential else mean


def by_label(sums: pd.DataFrame, layers: pd.DataFrame, measure: Measure) -> pd.DataFrame:
    """layer, label, value, n. `sums`: layer, label and the measure's sums; `layers`: layer, num_experts."""
    total, n = measure.sums
    frame = sums.merge(layers[["layer", "num_experts"]], on="layer")
    frame["value"] = value_of(measure, frame[total].to_numpy(float), frame[n].to_numpy(float), frame["num_experts"])
    return frame.rename(columns={n: "n"})[["layer", "label", "value", "n"]]


def overall(
    sums: pd.DataFrame, sampled: pd.DataFrame, layers: pd.DataFrame, measure: Measure, n_sequences: int
) -> pd.DataFrame:
    """layer, value, low, high, n over all labels; the interval from the sampled sequences."""
    total, n = measure.sums
    pooled = sums.groupby("layer")[[total, n]].sum().reindex(layers["layer"], fill_value=0)
    numbers, experts = layers["layer"].to_numpy(), layers["num_experts"].to_numpy(float)
    codes, names = pd.factorize(sampled["sequence_id"])
    each = np.zeros((len(names), len(numbers), 2))
    each[codes, np.searchsorted(numbers, sampled["layer"])] = sampled[[total, n]].to_numpy(float)

    def statistic(totals: np.ndarray) -> np.ndarray:
        return value_of(measure, totals[..., 0], totals[..., 1], experts)

    value = statistic(pooled.to_numpy(float)[None])[0]
    below, above = spread(statistic, each, n_sequences) if len(names) else (np.full(len(value), np.nan),) * 2
    count = pooled[n].to_numpy(np.int64)
    return pd.DataFrame({"layer": numbers, "value": value, "low": value + below, "high": value + above, "n": count})
