"""How evenly a layer's load is spread, from counts: arrays of many resamples at once."""

from __future__ import annotations

import numpy as np
import pandas as pd

from app.intervals import interval


def coefficient_of_variation(counts: np.ndarray) -> np.ndarray:
    """Standard deviation over mean of the experts' counts, [R, L, E] -> [R, L]. 0 = all equal; NaN without counts."""
    mean = np.nanmean(counts, axis=2)
    return np.nanstd(counts, axis=2) / np.where(mean > 0, mean, np.nan)


def max_over_mean(counts: np.ndarray) -> np.ndarray:
    """The busiest expert's count over the mean, [R, L, E] -> [R, L]. 1 = all equal, E = one expert does everything."""
    mean = np.nanmean(counts, axis=2)
    return np.nanmax(counts, axis=2) / np.where(mean > 0, mean, np.nan)


def gini(counts: np.ndarray) -> np.ndarray:
    """Gini coefficient of the experts' counts, [R, L, E] -> [R, L]. 0 = all equal, towards 1 = one does everything."""
    ordered = np.sort(counts, axis=2)  # NaN (experts a layer does not have) sort to the end
    n = np.sum(~np.isnan(ordered), axis=2)
    rank = np.arange(1, counts.shape[2] + 1)
    total = np.nansum(ordered, axis=2)
    weighted = np.nansum(rank * ordered, axis=2)
    return 2 * weighted / np.where(total > 0, n * total, np.nan) - (n + 1) / n


MEASURES = {"cv": coefficient_of_variation, "max ÷ mean": max_over_mean, "gini": gini}


def balance_curve(
    load: pd.DataFrame, sampled: pd.DataFrame, measure: str, n_sequences: int, tokens: pd.Series
) -> pd.DataFrame:
    """layer, value, low, high, n: the measure over all counts, and its interval from the sampled sequences.

    `load`: layer, expert, count of every expert; `sampled`: layer, expert, sequence_id, count; `tokens`: by layer.
    """
    statistic = MEASURES[measure]
    layers, experts = np.unique(load["layer"]), int(load["expert"].max()) + 1
    total = np.full((1, len(layers), experts), np.nan)
    total[0, np.searchsorted(layers, load["layer"]), load["expert"]] = load["count"]
    each = _per_sequence(sampled, layers, ~np.isnan(total[0]))
    value, center = statistic(total)[0], statistic(each.sum(axis=0, keepdims=True))[0] if len(each) else np.nan
    low, high = interval(statistic, each, n_sequences) if len(each) else (np.nan * value, np.nan * value)
    return pd.DataFrame(
        # The sample's own value differs a little from that of all sequences; only its spread is taken over.
        {"layer": layers, "value": value, "low": np.maximum(low - center + value, 0), "high": high - center + value}
    ).assign(n=tokens.reindex(layers).to_numpy())


def _per_sequence(sampled: pd.DataFrame, layers: np.ndarray, exists: np.ndarray) -> np.ndarray:
    """[S, L, E] counts; NaN for experts that a layer does not have."""
    codes, names = pd.factorize(sampled["sequence_id"])
    each = np.zeros((len(names), *exists.shape))
    each[:, ~exists] = np.nan
    each[codes, np.searchsorted(layers, sampled["layer"]), sampled["expert"]] = sampled["count"]
    return each
