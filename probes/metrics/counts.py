"""Metrics from a table of counts, where that is all there is: published figures, another tool's dump."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from probes.errors import ProbeError, UsageError
from probes.metrics.chunk import About
from probes.metrics.registry import get
from probes.metrics.run import run
from probes.routing import RoutingArrays

if TYPE_CHECKING:
    import pandas as pd

LABELS = ("label", "domain")


def from_counts(
    metric: str, counts: pd.DataFrame, top_k: int, num_experts: int | None = None, by: str | None = None, **options: Any
) -> pd.DataFrame:
    """The metric's table from how often each expert was chosen.

    counts: one row per layer, expert and label with the columns layer, expert, count and, for metrics that compare
    labels, label (or domain); rows that are not there count 0. Tokens are what the counts add up to, over top_k.
    num_experts: the largest id + 1 unless told. Raises UsageError for a table that is no such counts, ProbeError for a
    metric that needs more than counts (it says so).

    >>> import pandas as pd
    >>> counts = pd.DataFrame({"layer": 0, "expert": [0, 0, 1], "label": ["a", "b", "b"], "count": [2, 1, 1]})
    >>> from_counts("domain_specialization", counts, top_k=1)[["expert", "label", "share"]].values.tolist()
    [[0, 'a', 1.0], [1, 'a', 0.0], [0, 'b', 0.5], [1, 'b', 0.5]]
    """
    return run(get(metric), _Counts(counts, top_k, num_experts, metric), options, by=by)


class _Counts:
    """A table of counts as a source: it has sums, and no tokens to read."""

    n_sequences = 0

    def __init__(self, counts: pd.DataFrame, top_k: int, num_experts: int | None, metric: str) -> None:
        self.metric = metric
        label = next((name for name in LABELS if name in counts), None)
        _check(counts, label)
        layers, layer = np.unique(counts["layer"], return_inverse=True)
        names, code = np.unique(counts[label].astype(str), return_inverse=True) if label else ((), 0)
        size = int(counts["expert"].max()) + 1 if num_experts is None else num_experts
        if counts["expert"].max() >= size:
            raise UsageError(f"the counts name expert {counts['expert'].max()}, but num_experts is {size}")
        self.label_names = tuple(map(str, names))
        self.about = About(layers=layers.astype(np.int64), num_experts=size, top_k=top_k)
        self.count = np.zeros((len(layers), size, len(names) + 1), np.int64)  # last: tokens without a label
        where = (layer, counts["expert"].to_numpy(np.int64), np.broadcast_to(code, layer.shape))
        np.add.at(self.count, where, counts["count"].to_numpy(np.int64))
        self.tokens = self._tokens(top_k)

    def _tokens(self, top_k: int) -> np.ndarray:
        assignments = self.count.sum(axis=1)
        if top_k < 1 or (assignments % top_k).any() or (self.count.max(axis=1) * top_k > assignments).any():
            raise UsageError(f"the counts are not of {top_k} experts per token: check top_k")
        return assignments // top_k

    def chunks(self, needs: tuple[str, ...]) -> Iterator[RoutingArrays]:
        raise ProbeError(f"{self.metric} needs the routing of each token; counts by label are not enough for it")

    def aggregates(self) -> Mapping[str, Any]:
        """The counts, in the form of a trace's sums."""
        return {"count": self.count, "tokens": self.tokens, "seen": self.tokens.max(axis=0)}


def _check(counts: pd.DataFrame, label: str | None) -> None:
    missing = [name for name in ("layer", "expert", "count") if name not in counts]
    if missing:
        raise UsageError(f"counts has no column {missing[0]!r}; it takes layer, expert, label (or domain), count")
    if not len(counts):
        raise UsageError("counts has no rows")
    for name in ("layer", "expert", "count"):
        if counts[name].dtype.kind not in "iu" or (counts[name] < 0).any():
            raise UsageError(f"counts: {name} must be whole numbers from 0 on")
    if counts.duplicated([name for name in ("layer", "expert", label) if name]).any():
        raise UsageError("counts has two rows for one layer, expert and label: add them up first")
