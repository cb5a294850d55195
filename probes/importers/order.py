"""What there is to say of the order of imported slots: without weights and logits it says nothing."""

from __future__ import annotations

import numpy as np

from probes.pieces import pieces
from probes.slot_order import Order

ASCENDING = 0.95  # of the rows: of unsorted ids of two slots half ascend by chance
FEWEST = 20


def order_notes(experts: np.ndarray, done: Order, weights: bool, logits: bool) -> list[str]:
    """One line on what was put in order; without weights and logits, one line where ids stand in order of number."""
    if done.moved:
        what = "weight" if weights else "logit"
        share = 100 * done.moved / done.rows
        return [
            f"{done.moved:,} of {done.rows:,} rows ({share:.1f} %) did not stand in descending order of {what}; "
            "they were put in order"
        ]
    if weights or logits or experts.shape[2] < 2:
        return []
    return _numbered_note(experts)


def _numbered_note(experts: np.ndarray) -> list[str]:
    rows = rising = falling = 0
    for part in pieces(len(experts), experts.shape[1] * experts.shape[2]):
        ids = experts[part].astype(np.int64)
        pairs = ids[..., 1:] >= 0  # empty slots are last
        steps = np.diff(ids, axis=2)
        several = pairs.any(axis=2)
        rows += int(several.sum())
        rising += int((several & ((steps > 0) | ~pairs).all(axis=2)).sum())
        falling += int((several & ((steps < 0) | ~pairs).all(axis=2)).sum())
    most = max(rising, falling)
    if rows < FEWEST or most < ASCENDING * rows:
        return []
    direction = "ascend" if rising >= falling else "descend"
    return [
        f"ids {direction} by number in {100 * most / rows:.1f} % of {rows:,} rows, and the file has no weights or "
        "logits to order them by: first choices and ranks mean nothing unless the writer sorted them by weight"
    ]
