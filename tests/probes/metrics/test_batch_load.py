"""Batches that mix sequences: what is drawn, and that it does not depend on how the trace is read."""

from __future__ import annotations

import numpy as np
import pytest

from probes import metrics
from probes.errors import UsageError
from probes.metrics import function


def routing(tokens=4096, sequences=64, experts=16, seed=0):
    """Each sequence has one expert of its own, every second token of it goes there; the others are random."""
    rng = np.random.default_rng(seed)
    sequence = np.repeat(np.arange(sequences), tokens // sequences)
    ids = np.where(np.arange(tokens) % 2, sequence % experts, rng.integers(0, experts, tokens))
    return {"experts": ids[:, None, None], "sequence_id": sequence, "num_experts": experts}


def by_kind(**more):
    return metrics.batch_load(**routing(), size=32, **more).set_index("batch")


def test_mixed_batches_are_as_even_as_random_tokens_are():
    """Against batches drawn here: no sequence's own expert stands out."""
    table = by_kind(batch=("consecutive", "mixed"))
    rng, ids = np.random.default_rng(1), routing()["experts"][:, 0, 0]
    ratios = [np.bincount(rng.choice(ids, 32, replace=False), minlength=16).max() / 2 for _ in range(2000)]
    assert table.loc["32 tokens drawn from all sequences", "n_batches"] == 4096 // 32
    assert table.loc["32 tokens drawn from all sequences", "max_over_mean"] == pytest.approx(np.mean(ratios), abs=0.15)
    assert table.loc["32 consecutive tokens of a sequence", "max_over_mean"] > 8


def test_a_step_of_decoding_has_one_token_of_each_sequence():
    """64 sequences, one expert each at odd positions: 32 of them at once give each expert 2 tokens on average."""
    table = by_kind(batch="decode")
    row = table.iloc[0]
    assert row["n_batches"] == 2 * 64  # two groups of 32 sequences, 64 positions
    ids = routing()["experts"][:, 0, 0].reshape(64, 64)
    rng = np.random.default_rng(2)
    steps = [ids[rng.choice(64, 32, replace=False), rng.integers(64)] for _ in range(2000)]
    right = np.mean([np.bincount(step, minlength=16).max() / 2 for step in steps])
    assert row["max_over_mean"] == pytest.approx(right, abs=0.15)


def test_shorter_sequences_end_the_steps_of_their_group():
    experts = np.zeros((5, 1, 1), int)
    table = metrics.batch_load(experts, sequence_id=[0, 0, 0, 1, 1], num_experts=2, batch="decode", size=2)
    assert table["n_batches"].tolist() == [2]


@pytest.mark.parametrize("kind", ["mixed", "decode", "consecutive"])
def test_reading_in_pieces_changes_nothing(kind, monkeypatch):
    whole = by_kind(batch=kind)
    monkeypatch.setattr(function, "_CHUNK_CELLS", 256)
    assert by_kind(batch=kind).equals(whole)


def test_another_seed_draws_others():
    assert not by_kind(batch="mixed", draw=1).equals(by_kind(batch="mixed"))


def test_too_few_tokens_make_no_batch():
    table = metrics.batch_load([[0], [1]], num_experts=2, size=64)
    assert table.set_index("batch")["n_batches"].tolist() == [0, 1, 0, 0]
    assert table["max_over_mean"].isna().tolist() == [True, False, True, True]


def test_more_devices_than_experts_are_refused():
    with pytest.raises(UsageError, match="--devices must be at most 2"):
        metrics.batch_load([[0], [1]], num_experts=2, devices=3)
