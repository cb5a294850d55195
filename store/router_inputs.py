"""Sums of what each router received, by the expert ranked first: enough for the scatter within and between experts.

Per layer a count and a sum per expert, and one sum of outer products over all tokens, in float64: plain sums, so that
neither batches nor a resumed run change them. The products take 8·H² bytes of memory and half of that in the file, per
layer, and are written anew at every flush: that is why this level is kept only when asked for.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

Sums = tuple[np.ndarray, np.ndarray, np.ndarray]  # count [E], total [E, H], products [H, H]


class RouterInputs:
    """The sums of a run so far, and which layers changed since they were last written."""

    def __init__(self) -> None:
        self.layers: dict[int, Sums] = {}
        self.touched: set[int] = set()

    def add(self, sums: dict[int, Sums]) -> None:
        for layer, (count, total, products) in sums.items():
            new = np.asarray(count, np.int64), np.asarray(total, np.float64), np.asarray(products, np.float64)
            have = self.layers.get(layer)
            self.layers[layer] = new if have is None else (have[0] + new[0], have[1] + new[1], have[2] + new[2])
            self.touched.add(layer)

    def commit(self, con: Any, run_id: int) -> None:
        for layer in sorted(self.touched):
            for name, table in _tables(run_id, layer, *self.layers[layer]).items():
                con.execute(f"DELETE FROM raw.{name} WHERE run_id = ? AND layer = ?", [run_id, layer])  # noqa: S608
                con.register("arriving", table)
                con.execute(f"INSERT INTO raw.{name} BY NAME SELECT * FROM arriving")  # noqa: S608 - our own names
                con.unregister("arriving")

    def load(self, con: Any, run_id: int) -> None:
        """What an interrupted run had."""
        self.layers = read_router_inputs(con, run_id)


def read_router_inputs(con: Any, run_id: int) -> dict[int, Sums]:
    """layer -> (count int64 [E], total float64 [E, H], products float64 [H, H]); empty where they were not kept."""
    query = "SELECT layer, n_tokens, total FROM raw.router_inputs WHERE run_id = ? ORDER BY layer, expert"
    rows = con.sql(query, params=[run_id]).to_arrow_table()
    query = "SELECT layer, products FROM raw.router_products WHERE run_id = ? ORDER BY layer, component"
    products = con.sql(query, params=[run_id]).to_arrow_table()
    layers, others = rows["layer"].to_numpy(), products["layer"].to_numpy()
    found = {}
    for layer in np.unique(layers).tolist():
        mine = rows.filter(pa.array(layers == layer))
        total = mine["total"].combine_chunks().flatten().to_numpy().reshape(mine.num_rows, -1)
        triangle = products.filter(pa.array(others == layer))["products"].combine_chunks().flatten().to_numpy()
        found[layer] = (mine["n_tokens"].to_numpy().copy(), total.copy(), _square(triangle, total.shape[1]))
    return found


def _square(triangle: np.ndarray, width: int) -> np.ndarray:
    out = np.zeros((width, width))
    out[np.triu_indices(width)] = triangle
    return out + np.triu(out, 1).T


def _tables(run_id: int, layer: int, count: np.ndarray, total: np.ndarray, products: np.ndarray) -> dict[str, pa.Table]:
    e, h = total.shape
    triangle = products[np.triu_indices(h)]
    ends = np.concatenate([[0], np.cumsum(np.arange(h, 0, -1))])
    starts = np.arange(0, e * h + 1, h)
    each = {
        "expert": pa.array(np.arange(e, dtype=np.uint16)),
        "n_tokens": pa.array(count),
        "total": pa.ListArray.from_arrays(pa.array(starts, pa.int32()), pa.array(total.reshape(-1))),
    }
    rows = {
        "component": pa.array(np.arange(h, dtype=np.int32)),
        "products": pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(triangle)),
    }
    return {"router_inputs": _of(run_id, layer, each), "router_products": _of(run_id, layer, rows)}


def _of(run_id: int, layer: int, columns: dict[str, pa.Array]) -> pa.Table:
    n = len(next(iter(columns.values())))
    where = {"run_id": pa.repeat(pa.scalar(run_id, pa.int32()), n), "layer": pa.repeat(pa.scalar(layer, pa.int16()), n)}
    return pa.table({**where, **columns})
