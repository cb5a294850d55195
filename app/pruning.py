"""Arithmetic on importance: how far criteria agree, what a share of the experts would be, how much load it carries."""

from __future__ import annotations

import numpy as np
import pandas as pd

SCOPES = ("in each layer", "over the model")


def agreement(frame: pd.DataFrame) -> pd.DataFrame:
    """layer, criterion, other, spearman for every ordered pair; NaN where one of them is the same for all experts.

    `frame`: layer, expert, criterion, importance. An expert about which a criterion says nothing stands last.
    """
    rows = []
    for layer, own in frame.groupby("layer", sort=True):
        wide = own.pivot(index="expert", columns="criterion", values="importance")
        ranks = wide.fillna(-np.inf).rank(method="average")
        varying = ranks.loc[:, ranks.nunique() > 1]
        corr = varying.corr().reindex(index=ranks.columns, columns=ranks.columns)
        rows += [(layer, a, b, corr.at[a, b]) for a in corr.index for b in corr.columns]
    return pd.DataFrame(rows, columns=["layer", "criterion", "other", "spearman"])


def kept(frame: pd.DataFrame, ratio: float, scope: str = SCOPES[0]) -> pd.Series:
    """Whether each row's expert would be kept: the first ⌈ratio·E⌉ of its layer, or the first ⌈ratio·L·E⌉ of the model.

    `frame`: layer, expert, criterion, importance. Over the model every layer keeps its most important expert, because
    a layer without experts is no layer. Equals go by lower layer and expert.
    """
    by = ["criterion"] if scope == SCOPES[1] else ["criterion", "layer"]
    ordered = frame.sort_values(["layer", "expert"], kind="stable")
    ordered = ordered.sort_values("importance", ascending=False, na_position="last", kind="stable")
    rank = ordered.groupby(by, sort=False).cumcount() + 1
    size = ordered.groupby(by, sort=False)["expert"].transform("size")
    first = ordered.groupby(["criterion", "layer"], sort=False).cumcount() == 0
    # An integer that floats just missed (0.3 · 10) must not keep one more.
    return ((rank <= np.ceil(ratio * size - 1e-9)) | first).reindex(frame.index)


def per_layer(frame: pd.DataFrame, keep: pd.Series) -> pd.DataFrame:
    """criterion, layer, n_kept, covered: of the layer's assignments, the share that the kept experts have now.

    `frame` has a column count (assignments) besides.
    """
    marked = frame.assign(keep=keep, carried=frame["count"].where(keep, 0))
    sums = marked.groupby(["criterion", "layer"], sort=False)[["keep", "carried", "count"]].sum().reset_index()
    covered = sums["carried"] / sums["count"].where(sums["count"] > 0)
    return sums.assign(n_kept=sums["keep"].astype(int), covered=covered)[["criterion", "layer", "n_kept", "covered"]]


def coverage(frame: pd.DataFrame, ratios: np.ndarray, scope: str) -> pd.DataFrame:
    """criterion, ratio, covered (mean over layers) for each share of the experts kept."""
    rows = [
        per_layer(frame, kept(frame, float(ratio), scope))
        .groupby("criterion", sort=False)["covered"]
        .mean()
        .rename("covered")
        .reset_index()
        .assign(ratio=float(ratio))
        for ratio in ratios
    ]
    return pd.concat(rows, ignore_index=True)


def votes(frame: pd.DataFrame, keep: pd.Series) -> pd.DataFrame:
    """layer, expert, n_keep, n_criteria: how many of the criteria would keep each expert."""
    found = frame.assign(keep=keep).groupby(["layer", "expert"], sort=True)["keep"].agg(["sum", "size"]).reset_index()
    return found.rename(columns={"sum": "n_keep", "size": "n_criteria"}).astype({"n_keep": int})
