"""From arrays over (group, layer, expert, …) to rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from probes.metrics.chunk import About

if TYPE_CHECKING:
    import pandas as pd


def ratio(a: Any, b: Any) -> np.ndarray:
    """a / b in float64, NaN where b is 0: undefined is never 0.

    >>> ratio([1, 1], [4, 0]).tolist()
    [0.25, nan]
    """
    a, b = np.broadcast_arrays(np.asarray(a, np.float64), np.asarray(b, np.float64))
    return np.divide(a, b, out=np.full(a.shape, np.nan), where=b != 0)


def axes(about: About, *names: str) -> dict[str, Any]:
    """The group's column (if there is one), then the layer's and the expert's, as `grid` takes them."""
    values: dict[str, Any] = {
        "layer": about.layers,
        "expert": np.arange(about.num_experts),
        "other": np.arange(about.num_experts),
    }
    return {about.by or "_group": about.groups, **{name: values[name] for name in names}}


def grid(index: Mapping[str, Any], columns: Mapping[str, Any]) -> pd.DataFrame:
    """One row per cell of the axes. Arrays align with the axes from the left: [G, L] is the same for every expert.

    The axis `_group` (nothing to group by) makes no column.
    """
    import pandas as pd

    shape = tuple(len(v) for v in index.values())
    frame = {}
    for position, (name, values) in enumerate(index.items()):
        if name != "_group":
            around = [1] * len(shape)
            around[position] = shape[position]
            frame[name] = np.broadcast_to(_array(values).reshape(around), shape).ravel()
    for name, given in columns.items():
        array = np.asarray(given)
        array = array.reshape(array.shape + (1,) * (len(shape) - array.ndim))
        frame[name] = np.broadcast_to(array, shape).ravel()
    return pd.DataFrame(frame)


def _array(values: Any) -> np.ndarray:
    array = np.asarray(values) if not any(v is None for v in values) else np.empty(0, object)
    if array.dtype.kind in "OU":
        array = np.empty(len(values), object)
        array[:] = list(values)
    return array


def coverage(counts: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """`n_tokens` [G, L], and the share of the positions looked at that had nothing to count (no routing, no logits)."""
    seen = np.asarray(counts["seen"])[:, None]
    return {"n_tokens": counts["n_tokens"], "missing_share": 1 - ratio(counts["n_tokens"], seen)}
