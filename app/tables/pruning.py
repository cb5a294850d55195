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
    return _needed(frame, scope) <= ratio


def _needed(frame: pd.DataFrame, scope: str) -> pd.Series:
    """The smallest ratio at which each row's expert is kept."""
    by = ["criterion"] if scope == SCOPES[1] else ["criterion", "layer"]
    ordered = frame.sort_values(["layer", "expert"], kind="stable")
    ordered = ordered.sort_values("importance", ascending=False, na_position="last", kind="stable")
    before = ordered.groupby(by, sort=False).cumcount()
    size = ordered.groupby(by, sort=False)["expert"].transform("size")
    first = ordered.groupby(["criterion", "layer"], sort=False).cumcount() == 0
    # Above before/size, the next one fits; a float that just misses a whole number (0.3 · 10) must not add one.
    return ((before + 1e-9) / size).mask(first, 0.0).reindex(frame.index)


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
    needed, count = _needed(frame, scope).to_numpy(), frame["count"].to_numpy(float)
    groups = frame.groupby(["criterion", "layer"], sort=False)
    cell, names = groups.ngroup().to_numpy(), [name for (name, _), _ in groups]
    total = np.bincount(cell, count, len(names))
    rows = []
    for ratio in ratios:
        carried = np.bincount(cell, np.where(needed <= ratio, count, 0), len(names))
        shares = pd.Series(carried / np.where(total > 0, total, np.nan)).groupby(names, sort=False).mean()
        rows += [(name, float(ratio), share) for name, share in shares.items()]
    return pd.DataFrame(rows, columns=["criterion", "ratio", "covered"])


def votes(frame: pd.DataFrame, keep: pd.Series) -> pd.DataFrame:
    """layer, expert, n_keep, n_criteria: how many of the criteria would keep each expert."""
    found = frame.assign(keep=keep).groupby(["layer", "expert"], sort=True)["keep"].agg(["sum", "size"]).reset_index()
    return found.rename(columns={"sum": "n_keep", "size": "n_criteria"}).astype({"n_keep": int})
