"""Running moments of each expert's output vectors, merged batch by batch (Chan, Golub and LeVeque 1983)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

Moment = tuple[np.ndarray, np.ndarray, np.ndarray]  # count [E], mean [E, H], m2 [E, H]


def merge(a: Moment, b: Moment) -> Moment:
    """Moments of both sets together. Kept as float32, as they are stored, so that a resumed run goes on identically."""
    n = a[0] + b[0]
    share = (b[0] / np.maximum(n, 1))[:, None]
    mean_a, mean_b = a[1].astype(np.float64), b[1].astype(np.float64)
    delta = mean_b - mean_a
    mean = mean_a + delta * share
    m2 = a[2].astype(np.float64) + b[2] + delta**2 * share * a[0][:, None]
    return n, mean.astype(np.float32), m2.astype(np.float32)


class Moments:
    def __init__(self) -> None:
        self.layers: dict[int, Moment] = {}
        self.touched: set[int] = set()

    def add(self, moments: dict[int, Moment]) -> None:
        for layer, (count, mean, m2) in moments.items():
            new = np.asarray(count, np.int64), np.asarray(mean, np.float32), np.asarray(m2, np.float32)
            have = self.layers.get(layer)
            self.layers[layer] = new if have is None else merge(have, new)
            self.touched.add(layer)

    def commit(self, con: Any, run_id: int) -> None:
        for layer in sorted(self.touched):
            count, mean, m2 = self.layers[layer]
            con.execute("DELETE FROM raw.expert_outputs WHERE run_id = ? AND layer = ?", [run_id, layer])
            con.register("arriving", _table(run_id, layer, count, mean, m2))
            con.execute("INSERT INTO raw.expert_outputs BY NAME SELECT * FROM arriving")
            con.unregister("arriving")

    def load(self, con: Any, run_id: int) -> None:
        """What an interrupted run had."""
        query = "SELECT layer, n_tokens, mean, m2 FROM raw.expert_outputs WHERE run_id = ? ORDER BY layer, expert"
        for layer, rows in _by_layer(con.execute(query, [run_id]).fetchall()).items():
            count, mean, m2 = zip(*rows, strict=True)
            self.layers[layer] = np.array(count, np.int64), np.array(mean, np.float32), np.array(m2, np.float32)


def _by_layer(rows: list[tuple[Any, ...]]) -> dict[int, list[tuple[Any, ...]]]:
    layers: dict[int, list[tuple[Any, ...]]] = {}
    for layer, *rest in rows:
        layers.setdefault(layer, []).append(tuple(rest))
    return layers


def _table(run_id: int, layer: int, count: np.ndarray, mean: np.ndarray, m2: np.ndarray) -> pa.Table:
    e, h = mean.shape
    offsets = pa.array(np.arange(0, e * h + 1, h), pa.int32())
    return pa.table(
        {
            "run_id": pa.repeat(pa.scalar(run_id, pa.int32()), e),
            "layer": pa.repeat(pa.scalar(layer, pa.int16()), e),
            "expert": pa.array(np.arange(e, dtype=np.uint16)),
            "n_tokens": pa.array(count),
            "mean": pa.ListArray.from_arrays(offsets, pa.array(mean.reshape(-1))),
            "m2": pa.ListArray.from_arrays(offsets, pa.array(m2.reshape(-1))),
        }
    )
