"""Reading the aggregates as arrays: what load, nPMI over labels and co-activation are computed from."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from store import queries

# name in the result -> column of raw.aggregates
PER_EXPERT = {
    "count": "chosen",
    "first_count": "first_chosen",
    "sum_weight": "sum_weight",
    "sum_probability": "sum_probability",
    "n_norm": "n_norm",
    "sum_norm": "sum_norm",
    "sum_weight_norm": "sum_weight_norm",
    "max_abs_output": "max_abs_output",
    "max_output_sequence_id": "max_output_sequence_id",
    "max_output_position": "max_output_position",
    "max_abs_input": "max_abs_input",
}
PER_LAYER = {
    "tokens": "n_tokens",
    "missing": "n_missing",
    "n_logits": "n_logits",
    "n_entropy": "n_entropy",
    "sum_entropy": "sum_entropy",
    "sum_entropy_squared": "sum_entropy_squared",
    "n_margin": "n_margin",
    "sum_margin": "sum_margin",
    "sum_margin_squared": "sum_margin_squared",
}
WHOLE = {"count", "first_count", "n_norm", "tokens", "missing", "n_logits", "n_entropy", "n_margin"}
PLACES = {"max_output_sequence_id", "max_output_position"}
MAXIMA = {"max_abs_output", "max_abs_input"}


def read_aggregates(con: Any, run_id: int, wanted: Collection[str] | None = None) -> dict[str, Any]:
    """Arrays over layers, experts and labels; the last of the G groups holds the sequences without a label.

    layers [L], num_experts [L], top_k [L], label_names (G - 1)
    [L, E, G]: count, first_count, n_norm int64; sum_weight, sum_probability, sum_norm, sum_weight_norm float64;
    max_abs_output, max_abs_input float64 (NaN unknown); max_output_sequence_id, max_output_position int64 (-1 unknown)
    [L, G]: tokens, missing, n_logits, n_entropy, n_margin int64; sum_entropy, sum_margin and their squares float64
    coactivation [L, E, E] int64
    Of all these only the `wanted`, where that is given; a metric needs few of them.
    """
    layers = con.execute(queries.LAYERS, [run_id]).fetchnumpy()
    names = tuple(label for (label,) in con.execute(queries.LABELS, [run_id]).fetchall())
    numbers, experts = layers["layer"].astype(np.int64), layers["num_experts"].astype(np.int64)
    shape = (len(numbers), int(experts.max(initial=0)), len(names) + 1)
    result: dict[str, Any] = {"layers": numbers, "num_experts": experts, "top_k": layers["top_k"].astype(np.int64)}
    result |= {"label_names": names} | {name: _empty(name, shape) for name in PER_EXPERT if _is(name, wanted)}
    result |= {name: _empty(name, (shape[0], shape[2])) for name in PER_LAYER if _is(name, wanted)}
    at = {int(layer): i for i, layer in enumerate(numbers)}
    _fill(con, run_id, result, at)
    if _is("coactivation", wanted):
        result["coactivation"] = _coactivation(con, run_id, at, shape)
    return result


def _is(name: str, wanted: Collection[str] | None) -> bool:
    return wanted is None or name in wanted


def _empty(name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name in MAXIMA:
        return np.full(shape, np.nan)
    if name in PLACES:
        return np.full(shape, -1, np.int64)
    return np.zeros(shape, np.int64 if name in WHOLE else np.float64)


def _fill(con: Any, run_id: int, result: dict[str, Any], at: dict[int, int]) -> None:
    columns = ", ".join(column for name, column in (PER_EXPERT | PER_LAYER).items() if name in result) or "1"
    table = con.sql(queries.AGGREGATES.format(columns=columns), params=[run_id]).to_arrow_table()
    row_of = [at[layer] for layer in table["layer"].to_pylist()]
    group_of = table["label_id"].to_pylist()
    for name, column in ((n, c) for n, c in PER_EXPERT.items() if n in result):
        arrays = _lists(table[column].combine_chunks(), missing=-1 if name in PLACES else np.nan)
        for i, g, values in zip(row_of, group_of, arrays, strict=True):
            result[name][i, : len(values), g] = values
    for name, column in ((n, c) for n, c in PER_LAYER.items() if n in result):
        result[name][row_of, group_of] = table[column].to_numpy()


def _lists(column: Any, missing: float) -> list[np.ndarray]:
    values = column.flatten()
    if not len(column):  # splitting nothing would still make one part
        return []
    if values.null_count:
        values = values.fill_null(missing)
    return np.split(values.to_numpy(zero_copy_only=False), np.cumsum(column.value_lengths().to_numpy())[:-1])


def _coactivation(con: Any, run_id: int, at: dict[int, int], shape: tuple[int, ...]) -> np.ndarray:
    together = np.zeros((shape[0], shape[1], shape[1]), np.int64)
    table = con.sql(queries.COACTIVATION, params=[run_id]).to_arrow_table()
    if table.num_rows:
        arrays = _lists(table["together"].combine_chunks(), missing=0)
        for layer, expert, values in zip(table["layer"].to_pylist(), table["expert"].to_pylist(), arrays, strict=True):
            together[at[layer], expert, : len(values)] = values
    return together
