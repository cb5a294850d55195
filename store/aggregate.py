"""Counts and sums per (layer, expert, label), kept while recording, so that no page or metric scans the whole trace.

The totals live in memory (their size depends on layers, experts and labels, not on the trace's length) and each flush
writes those that changed in its transaction. Batches are added one after the other, so the sums do not depend on how
batches were grouped into flushes, not even in the last bit. The loops are compiled and release the GIL: the model runs
in another thread of this process.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from store.batch import Batch, LayerInfo, LayerRows
from store.compiled import compiled
from store.encode import kept_logits, widen
from store.errors import TraceError

COUNTS = ("n_tokens", "n_missing", "n_logits", "n_entropy", "n_margin")
SUMS = ("sum_entropy", "sum_entropy_squared", "sum_margin", "sum_margin_squared")
EXPERT_COUNTS = ("chosen", "first_chosen", "n_norm")
EXPERT_SUMS = ("sum_weight", "sum_probability", "sum_norm", "sum_weight_norm")
EXPERT_MAXIMA = ("max_abs_output", "max_abs_input")
EXPERT_WHERE = ("max_output_sequence_id", "max_output_position")
SCALARS = COUNTS + SUMS
ARRAYS = EXPERT_COUNTS + EXPERT_SUMS + EXPERT_MAXIMA + EXPERT_WHERE
MEMORY_LIMIT = 1 << 30
_ROWS = 4096  # rows of logits turned into probabilities at a time: they stay in the cache


@compiled
def _count(experts, group, chosen, first, together):  # pragma: no cover
    """Choices per expert and group, and pairs; returns the first row that names an expert twice, or -1."""
    n, k = experts.shape
    for row in range(n):
        g = group[row]
        for slot in range(k):
            e = experts[row, slot]
            if e < 0:
                continue
            chosen[g, e] += 1
            together[e, e] += 1
            if slot == 0:
                first[g, e] += 1
            for other in range(slot):
                o = experts[row, other]
                if o == e:
                    return row
                if o >= 0:
                    together[e, o] += 1
                    together[o, e] += 1
    return -1


@compiled
def _add_values(experts, group, values, norms, sum_weight, n_norm, sum_norm, sum_weight_norm):  # pragma: no cover
    n, k = experts.shape
    has_values, has_norms = values.shape[0] == n, norms.shape[0] == n
    for row in range(n):
        g = group[row]
        for slot in range(k):
            e = experts[row, slot]
            if e < 0:
                continue
            w = np.float64(values[row, slot]) if has_values else np.nan
            if w == w:
                sum_weight[g, e] += w
            x = np.float64(norms[row, slot]) if has_norms else np.nan
            if x == x:
                n_norm[g, e] += 1
                sum_norm[g, e] += x
                if w == w:
                    sum_weight_norm[g, e] += w * x


@compiled
def _maxima(
    experts, group, outputs, inputs, sequence, position, most, at_sequence, at_position, most_input
):  # pragma: no cover
    n, k = experts.shape
    has_outputs, has_inputs = outputs.shape[0] == n, inputs.shape[0] == n
    for row in range(n):
        g = group[row]
        for slot in range(k):
            e = experts[row, slot]
            if e < 0:
                continue
            if has_outputs and outputs[row, slot] > most[g, e]:
                most[g, e] = outputs[row, slot]
                at_sequence[g, e] = sequence[row]
                at_position[g, e] = position[row]
            if has_inputs and inputs[row] > most_input[g, e]:
                most_input[g, e] = inputs[row]


@compiled
def _add_rows(scores, share, group, total):  # pragma: no cover
    for row in range(scores.shape[0]):
        for e in range(scores.shape[1]):
            total[group[row], e] += scores[row, e] * share[row]


class LayerTotals:
    """Totals of one layer: arrays [groups, E]; group 0 is "no label", group g + 1 is label g."""

    def __init__(self, info: LayerInfo):
        self.info = info
        self.arrays: dict[str, np.ndarray] = {}
        self.together = np.zeros((info.num_experts, info.num_experts), dtype=np.int64)
        self.grow(1)

    def grow(self, groups: int) -> None:
        """Room for at least `groups` groups."""
        have = len(self.arrays["n_tokens"]) if self.arrays else 0
        if groups <= have:
            return
        room = max(groups, 2 * have)
        fresh = _empty(room, self.info.num_experts)
        for name, old in self.arrays.items():
            fresh[name][:have] = old
        self.arrays = fresh

    @property
    def nbytes(self) -> int:
        return self.together.nbytes + sum(a.nbytes for a in self.arrays.values())

    def add(self, batch: Batch, rows: LayerRows, group: np.ndarray) -> None:
        a = self.arrays
        experts = np.ascontiguousarray(rows.experts, dtype=np.int32)
        twice = _count(experts, group, a["chosen"], a["first_chosen"], self.together)
        if twice >= 0:
            raise TraceError(
                f"batch {batch.index}: layer {rows.layer}: a token names an expert twice: {experts[twice].tolist()}"
            )
        self._add_tokens(rows, np.asarray((experts >= 0).any(axis=1)), group)
        weights, norms = _floats(rows.weights, experts.shape[1]), _floats(rows.output_norm, experts.shape[1])
        _add_values(
            experts, group, weights, norms, *(a[n] for n in ("sum_weight", "n_norm", "sum_norm", "sum_weight_norm"))
        )
        self._add_maxima(batch, rows, experts, group)
        self._add_probabilities(rows, group)

    def _add_tokens(self, rows: LayerRows, routed: np.ndarray, group: np.ndarray) -> None:
        groups = len(self.arrays["n_tokens"])
        self.arrays["n_tokens"] += np.bincount(group[routed], minlength=groups)
        self.arrays["n_missing"] += np.bincount(group[~routed], minlength=groups)
        for name, values in (("entropy", rows.entropy), ("margin", rows.margin)):
            if values is not None:
                self._add_scalar(name, np.asarray(values, dtype=np.float64), group)

    def _add_scalar(self, name: str, values: np.ndarray, group: np.ndarray) -> None:
        known = ~np.isnan(values)
        g, x, groups = group[known], values[known], len(self.arrays["n_tokens"])
        self.arrays[f"n_{name}"] += np.bincount(g, minlength=groups)
        self.arrays[f"sum_{name}"] += np.bincount(g, weights=x, minlength=groups)
        self.arrays[f"sum_{name}_squared"] += np.bincount(g, weights=x * x, minlength=groups)

    def _add_maxima(self, batch: Batch, rows: LayerRows, experts: np.ndarray, group: np.ndarray) -> None:
        if rows.output_absmax is None and rows.input_absmax is None:
            return
        inputs = np.zeros(0, np.float32) if rows.input_absmax is None else np.asarray(rows.input_absmax, np.float32)
        where = (np.asarray(batch.tokens[n], dtype=np.int32) for n in ("sequence_id", "position"))
        found = (self.arrays[n] for n in ("max_abs_output", *EXPERT_WHERE, "max_abs_input"))
        _maxima(experts, group, _floats(rows.output_absmax, experts.shape[1]), inputs, *where, *found)

    def _add_probabilities(self, rows: LayerRows, group: np.ndarray) -> None:
        kept = kept_logits(rows)
        if rows.logits is None or kept is None:
            return
        self.arrays["n_logits"] += np.bincount(group[kept], minlength=len(self.arrays["n_tokens"]))
        if _unknown(self.info.gating):  # scores by another rule would be numbers of another model
            self.arrays["sum_probability"][:] = np.nan
            return
        which = np.flatnonzero(kept)
        for start in range(0, len(which), _ROWS):
            part = which[start : start + _ROWS]
            scores, share = scores_of(widen(rows.logits[part]), self.info.gating)
            _add_rows(scores, share, group[part], self.arrays["sum_probability"])


def _unknown(gating: str) -> bool:
    """Is it not known how the layer makes scores of its logits?"""
    return gating.partition(":")[0].strip().lower() == "unknown"


def _kind(gating: str) -> str:
    """How scores are made: what stands before the colon, where that says it; rules are called after other steps too."""
    stated = gating.partition(":")[0].strip().lower()
    return stated if stated in ("softmax", "sigmoid", "sqrtsoftplus") else gating.lower()


def scores_of(logits: np.ndarray, gating: str) -> tuple[np.ndarray, np.ndarray]:
    """Scores float32 [n, E] and what to multiply each row with [n] to make them probabilities.

    Softmax over the experts; for sigmoid and sqrt(softplus) gating these scores scaled to sum 1.
    """
    kind = _kind(gating)
    if "sqrtsoftplus" in kind:
        scores = np.sqrt(np.logaddexp(np.float32(0), logits))
    elif "sigmoid" in kind:
        with np.errstate(over="ignore"):
            scores = 1 / (1 + np.exp(-logits))
    else:
        scores = np.exp(logits - _highest(logits))
    return scores, 1 / (scores @ np.ones(scores.shape[1], np.float32))


def _highest(logits: np.ndarray) -> Any:
    """What to subtract before exp: one number where the logits lie close together (faster), else one per row."""
    top, bottom = logits.max(), logits.min()
    return top if top - bottom < 60 else logits.max(axis=1, keepdims=True)


def _floats(values: np.ndarray | None, k: int) -> np.ndarray:
    return np.zeros((0, k), np.float32) if values is None else np.ascontiguousarray(values, dtype=np.float32)


def _empty(groups: int, experts: int) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {name: np.zeros(groups, np.int64) for name in COUNTS} | {
        name: np.zeros(groups) for name in SUMS
    }
    arrays |= {name: np.zeros((groups, experts), np.int64) for name in EXPERT_COUNTS}
    arrays |= {name: np.zeros((groups, experts)) for name in EXPERT_SUMS}
    arrays |= {name: np.full((groups, experts), -1, np.float32) for name in EXPERT_MAXIMA}
    return arrays | {name: np.full((groups, experts), -1, np.int32) for name in EXPERT_WHERE}


class Totals:
    """Totals of a run, and which groups changed since they were last written."""

    def __init__(self, layers: Iterable[LayerInfo]):
        self.layers = {info.layer: LayerTotals(info) for info in layers}
        self.touched: set[int] = set()

    @property
    def nbytes(self) -> int:
        return sum(layer.nbytes for layer in self.layers.values())

    def add(self, batch: Batch, group: np.ndarray, groups: int) -> None:
        """`group` [n]: 0 for a token without a label, else the label's number plus one; of `groups` in all."""
        for layer in self.layers.values():
            layer.grow(groups)
        if self.nbytes > MEMORY_LIMIT:
            raise TraceError(
                f"batch {batch.index}: {groups - 1} labels are too many to keep counts for; labels name groups of "
                "prompts, put what is unique to a prompt into its id or metadata"
            )
        for rows in batch.layers:
            self.layers[rows.layer].add(batch, rows, group)
        self.touched.update(int(g) for g in np.unique(group))
