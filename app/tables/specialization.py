"""Arithmetic behind the Specialization page: an order that puts alike beside alike, and who is strongest for what."""

from __future__ import annotations

import numpy as np
import pandas as pd

MOST_LABELS = 40  # rows of a heat-map that can still be read
MOST_CLUSTERED = 512  # beyond that the best order takes seconds


def clustered(grid: pd.DataFrame) -> pd.DataFrame:
    """The grid with rows and columns in the order of an average-linkage tree, so that alike stand side by side.

    Leaves are turned so that neighbours differ least (Bar-Joseph et al. 2001). Euclidean distance; unknown counts 0.
    """
    values = np.nan_to_num(grid.to_numpy(float))
    return grid.iloc[_order(values), _order(values.T)]


def _order(values: np.ndarray) -> np.ndarray:
    """[n] the order of the rows of [n, m]; as they are where there are too few to group or too many to wait for."""
    if not 2 < len(values) <= MOST_CLUSTERED:
        return np.arange(len(values))
    from scipy.cluster.hierarchy import leaves_list, linkage

    return leaves_list(linkage(values, "average", optimal_ordering=True))


def label_grid(table: pd.DataFrame, layer: int, value: str, labels: list[str]) -> pd.DataFrame:
    """[label, expert] the values of one layer. `table`: layer, expert, the label in column target or label, value."""
    name = "target" if "target" in table else "label"
    here = table[table["layer"] == layer]
    return here.pivot(index=name, columns="expert", values=value).reindex(labels)


def strongest(table: pd.DataFrame) -> pd.DataFrame:
    """The expert that goes most with each label in each layer: the largest rows of npmi, by layer and target."""
    known = table[table["npmi"].notna()]
    return known.loc[known.groupby(["layer", "target"])["npmi"].idxmax()]


def largest_labels(table: pd.DataFrame, most: int = MOST_LABELS) -> list[str]:
    """The labels of npmi with the most tokens, in order of their names."""
    sizes = table.groupby("target")["n_x"].max().sort_values(ascending=False, kind="stable")
    return sorted(sizes.index[:most])


def furthest(distance: pd.DataFrame) -> tuple[str, str] | None:
    """The two labels whose loads of the last layer differ most. `distance`: layer, a, b, l2."""
    last = distance[(distance["layer"] == distance["layer"].max()) & distance["l2"].notna()]
    if not len(last):
        return None
    row = last.loc[last["l2"].idxmax()]
    return str(row["a"]), str(row["b"])
