"""One value per layer with its interval: how even the load is, how undecided the router."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from app.tables.intervals import spread


def coefficient_of_variation(counts: np.ndarray) -> np.ndarray:
    """Standard deviation over mean of the experts' counts, [R, L, E] -> [R, L]. 0 = all equal; NaN without counts."""
    mean = np.nanmean(counts, axis=2)
    return np.nanstd(counts, axis=2) / _positive(mean)


def max_over_mean(counts: np.ndarray) -> np.ndarray:
    """The busiest expert's count over the mean, [R, L, E] -> [R, L]. 1 = all equal, E = one expert does everything."""
    mean = np.nanmean(counts, axis=2)
    return np.nanmax(counts, axis=2) / _positive(mean)


def gini(counts: np.ndarray) -> np.ndarray:
    """Gini coefficient of the experts' counts, [R, L, E] -> [R, L]. 0 = all equal, towards 1 = one does everything."""
    ordered = np.sort(counts, axis=2)  # NaN (experts a layer does not have) sort to the end
    n = np.sum(~np.isnan(ordered), axis=2)
    rank = np.arange(1, counts.shape[2] + 1)
    total = np.nansum(ordered, axis=2)
    weighted = np.nansum(rank * ordered, axis=2)
    return 2 * weighted / _positive(n * total) - (n + 1) / n


MEASURES = {"cv": coefficient_of_variation, "max ÷ mean": max_over_mean, "gini": gini}


def balance_curve(load: pd.DataFrame, sampled: pd.DataFrame, measure: str, n_sequences: int) -> pd.DataFrame:
    """layer, value, low, high: the measure over all counts, and its interval from the sampled sequences.

    `load`: layer, expert, count of every expert; `sampled`: layer, expert, sequence_id, count.
    """
    layers, experts = np.unique(load["layer"]), int(load["expert"].max()) + 1
    total = np.full((1, len(layers), experts), np.nan)
    total[0, np.searchsorted(layers, load["layer"]), load["expert"]] = load["count"]
    codes, names = pd.factorize(sampled["sequence_id"])
    each = np.zeros((len(names), *total.shape[1:]))
    each[:, np.isnan(total[0])] = np.nan  # experts that a layer does not have
    each[codes, np.searchsorted(layers, sampled["layer"]), sampled["expert"]] = sampled["count"]
    return _curve(layers, total, each, MEASURES[measure], n_sequences)


def entropy_curve(totals: pd.DataFrame, sampled: pd.DataFrame, n_sequences: int) -> pd.DataFrame:
    """layer, value (mean entropy over ln E), low, high. A layer without logits has NaN.

    `totals`: layer, num_experts, sum_entropy, n_entropy; `sampled`: layer, sequence_id, sum_entropy, n_entropy.
    """
    layers, columns = totals["layer"].to_numpy(), ["sum_entropy", "n_entropy"]
    largest = np.log(np.maximum(totals["num_experts"].to_numpy(float), 1))
    known = sampled[sampled["n_entropy"] > 0]
    codes, names = pd.factorize(known["sequence_id"])
    each = np.zeros((len(names), len(layers), 2))
    each[codes, np.searchsorted(layers, known["layer"])] = known[columns].to_numpy(float)

    def normalized(sums: np.ndarray) -> np.ndarray:
        return sums[..., 0] / _positive(sums[..., 1] * largest)

    return _curve(layers, totals[columns].to_numpy(float)[None], each, normalized, n_sequences)


def _curve(layers: np.ndarray, total: np.ndarray, each: np.ndarray, statistic: Any, n_sequences: int) -> pd.DataFrame:
    value = statistic(total)[0]
    below, above = spread(statistic, each, n_sequences)
    return pd.DataFrame({"layer": layers, "value": value, "low": np.maximum(value + below, 0), "high": value + above})


def _positive(values: np.ndarray) -> np.ndarray:
    return np.where(values > 0, values, np.nan)
