"""What `count` sees: routing of some whole sequences, and the group each token counts towards."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from probes.errors import ProbeError
from probes.routing import RoutingArrays


@dataclass(frozen=True)
class PairedArrays(RoutingArrays):
    """The same tokens in two runs: what the second one chose, and its logits where there are any."""

    other_experts: np.ndarray | None = None
    other_logits: np.ndarray | None = None


@dataclass(frozen=True)
class About:
    """What stays the same over a whole trace: the shape of the model and the names of the groups.

    top_k: experts the router chooses per token; slots: the most that a token can have, which interventions change;
    layers [L] the model's own indices; groups: names along the counts' first axis; by: the column they make, or None;
    scores [L]: how logits become scores in each layer ("softmax", "sigmoid", "sqrtsoftplus"); shared_experts [L]: how
    many experts every token of a layer passes through, where that is known; split: the labels, where groups of another
    kind are counted for each label, and are then pairs of the label's number and the name.
    """

    layers: np.ndarray
    num_experts: int
    top_k: int
    by: str | None = None
    groups: tuple[Any, ...] = (None,)
    scores: tuple[str, ...] = ()
    num_hidden_layers: int | None = None
    shared_experts: tuple[int, ...] = ()
    split: tuple[Any, ...] = ()
    slots: int | None = None

    @property
    def width(self) -> int:
        """How many slots the arrays have."""
        return self.top_k if self.slots is None else self.slots

    @property
    def num_layers(self) -> int:
        """L, the number of MoE layers looked at."""
        return len(self.layers)


@dataclass(frozen=True)
class Chunk:
    """Whole sequences: s is tokens `starts[s]:starts[s + 1]`; `group[t]` is the row in which token t counts."""

    arrays: RoutingArrays
    starts: np.ndarray
    group: np.ndarray
    n_groups: int
    about: About
    so_far: dict[str, Any] | None = None
    state: dict[str, Any] = field(default_factory=dict)
    rows: np.ndarray | None = None

    @property
    def row(self) -> np.ndarray:
        """[T] the group of each token in the table, also while every sequence is counted on its own."""
        return self.group if self.rows is None else self.rows

    @property
    def experts(self) -> np.ndarray:
        """[T, L, slots] chosen ids; below 0 in empty slots, which come last (see `probes.routing`)."""
        return self.arrays.experts

    @property
    def routed(self) -> np.ndarray:
        """[T, L] bool: this position has an expert in this layer. Metrics of one run count these positions only."""
        return self.arrays.experts[:, :, 0] >= 0

    @property
    def taken(self) -> np.ndarray:
        """[T, L, slots] bool: this slot holds an expert. Every per-slot array counts only where it does."""
        return self.arrays.experts >= 0

    @property
    def sequence_group(self) -> np.ndarray:
        """[S] the group of each sequence (of its first token: groups never split a sequence here)."""
        return self.group[self.starts[:-1]]

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """G, T, L, slots, E."""
        tokens, layers, slots = self.arrays.experts.shape
        return self.n_groups, tokens, layers, slots, self.arrays.num_experts


def sequence_starts(sequence_id: np.ndarray) -> np.ndarray:
    """[S + 1] where each run of equal ids begins, and the end; refuses ids that come back later.

    >>> sequence_starts(np.array([7, 7, 3])).tolist()
    [0, 2, 3]
    """
    sequence_id = np.asarray(sequence_id)
    if len(sequence_id) == 0:
        return np.zeros(1, np.int64)
    begins = np.concatenate([[0], np.flatnonzero(sequence_id[1:] != sequence_id[:-1]) + 1])
    if len(np.unique(sequence_id[begins])) != len(begins):
        raise ProbeError("sequence_id: the tokens of a sequence must stand together; an id comes back later")
    return np.concatenate([begins, [len(sequence_id)]]).astype(np.int64)


def add_counts(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """The sum of two counts, made in place; a group one side has not met yet counts zero there.

    By name: `max_…` takes the larger (NaN is nothing), `_…` are lists that are strung together, `same_…` is of the
    whole run and stays as it is.
    """
    return {key: _add(key, a[key], b[key]) for key in a}


def _add(key: str, a: Any, b: Any) -> Any:
    if key.startswith("_"):
        return a + b
    if key.startswith("same_"):
        return a
    if len(a) < len(b):
        a, b = b, a
    if key.startswith("max_"):
        np.fmax(a[: len(b)], b, out=a[: len(b)])
    else:
        a[: len(b)] += b
    return a


def by_group(values: np.ndarray, group: np.ndarray, n_groups: int) -> np.ndarray:
    """Sum of `values` [T, ...] over the tokens of each group: [G, ...]. NaN counts as nothing.

    >>> by_group(np.array([[1.0], [2.0], [4.0]]), np.array([0, 1, 1]), 2).tolist()
    [[1.0], [6.0]]
    """
    values = np.asarray(values)
    dtype = np.int64 if values.dtype.kind in "biu" else np.float64
    clean = values.astype(dtype)
    if dtype is np.float64:
        clean[np.isnan(clean)] = 0
    out = np.zeros((n_groups, *values.shape[1:]), dtype)
    if n_groups == 1:
        out[0] = clean.sum(axis=0)
    elif len(clean) and n_groups <= 32:
        for g in np.unique(group):
            out[g] = clean[group == g].sum(axis=0)
    else:
        np.add.at(out, group, clean)
    return out


MOMENTS = ("output_count", "output_mean", "output_m2")
WEIGHTS = ("router_weight", "expert_weight")
_WHOLE = ("layers", "num_experts", "label_names", "router_k", *MOMENTS, *WEIGHTS)


def cut(arrays: RoutingArrays, a: int, b: int) -> RoutingArrays:
    """The tokens a..b."""
    per_token = {f.name: getattr(arrays, f.name) for f in fields(arrays) if f.name not in _WHOLE}
    return replace(arrays, **{name: value[a:b] for name, value in per_token.items() if value is not None})
