"""Which sequences go through the model together, fixed beforehand, so that an interrupted run can go on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from probes.parsing import share_of_work

WINDOW = 32  # batches' worth of prompts sorted by length together: little padding, yet labels stay mixed over time
TOKENS_PER_BATCH = {"cpu": 2048, "cuda": 16384}


def plan_batches(lengths: Sequence[int], batch_size: int | None, device_type: str = "cpu") -> list[list[int]]:
    """Indices of the sequences of each batch, similar lengths together.

    `batch_size` None chooses by tokens: as many sequences as keep a padded batch within the device's budget.
    Depends on its arguments alone, so that a resumed run makes the same batches.
    """
    budget = TOKENS_PER_BATCH.get(device_type, TOKENS_PER_BATCH["cpu"])
    window = WINDOW * (batch_size or max(1, budget // max(1, int(np.median(lengths)))))
    batches: list[list[int]] = []
    for start in range(0, len(lengths), window):
        indices = range(start, min(start + window, len(lengths)))
        ordered = sorted(indices, key=lambda index: (-lengths[index], index))
        batches += _cut(ordered, lengths, batch_size, budget)
    return batches


def _cut(ordered: list[int], lengths: Sequence[int], batch_size: int | None, budget: int) -> list[list[int]]:
    """Longest first, so the first sequence of a batch sets its padded length."""
    batches: list[list[int]] = []
    for index in ordered:
        room = batch_size or (max(1, budget // lengths[batches[-1][0]]) if batches else 1)
        if batches and len(batches[-1]) < room:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def take_shard(items: list[Any], shard: str | None) -> list[Any]:
    """Every n-th item from the i-th on for `shard` "i/n" (1-based); all of them for None."""
    if not shard:
        return items
    i, n = share_of_work(shard, "--shard")
    return items[i - 1 :: n]


def fingerprint(ids: Sequence[np.ndarray], batches: list[list[int]], settings: dict[str, Any]) -> str:
    """One hash over everything that decides the rows: what is fed, in which batches, and what is kept."""
    digest = hashlib.sha256(json.dumps([batches, settings], sort_keys=True, default=str).encode())
    for sequence in ids:
        digest.update(np.int64(len(sequence)).tobytes() + np.ascontiguousarray(sequence, dtype="<i4").tobytes())
    return digest.hexdigest()[:32]


def sample_positions(sequence_id: np.ndarray, position: np.ndarray, rate: float, seed: int) -> np.ndarray | None:
    """Which positions are kept in full: a share `rate`, decided by a hash of the position itself.

    Independent of batches and order, so that a resumed run keeps the same ones. None means all.
    """
    if rate >= 1:
        return None
    key = sequence_id.astype(np.uint64) << np.uint64(32) | position.astype(np.uint64)
    with np.errstate(over="ignore"):  # splitmix64 is arithmetic modulo 2**64
        key = key + np.uint64(0x9E3779B97F4A7C15) * np.uint64(seed + 1)
        key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        key = key ^ (key >> np.uint64(31))
    return key.astype(np.float64) < rate * 2.0**64
