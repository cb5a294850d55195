"""Batches, shards and the share of positions that keep their logits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probes.errors import UsageError
from probes.recording.plan import fingerprint, plan_batches, sample_positions, take_shard


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=200), st.one_of(st.none(), st.integers(1, 9)))
def test_every_sequence_is_in_exactly_one_batch(lengths, batch_size):
    batches = plan_batches(lengths, batch_size)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert batches == plan_batches(lengths, batch_size)
    if batch_size:
        assert max(map(len, batches)) <= batch_size
    else:
        assert all(len(batch) == 1 or len(batch) * lengths[batch[0]] <= 2048 for batch in batches)


def test_a_batch_pads_little():
    lengths = np.random.default_rng(0).integers(10, 500, 2000).tolist()
    batches = plan_batches(lengths, None)
    padded = sum(len(batch) * max(lengths[index] for index in batch) for batch in batches)
    assert padded < 1.1 * sum(lengths)


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_shards_are_disjoint_and_complete(n):
    parts = [take_shard(list(range(20)), f"{i}/{n}") for i in range(1, n + 1)]
    assert sorted(item for part in parts for item in part) == list(range(20))


@pytest.mark.parametrize("shard", ["0/2", "3/2", "2", "a/b", "1/0"])
def test_a_wrong_shard_is_refused(shard):
    with pytest.raises(UsageError):
        take_shard([1], shard)


def test_kept_logits_are_about_the_rate_and_depend_on_the_position_alone():
    sequence = np.repeat(np.arange(100), 100)
    position = np.tile(np.arange(100), 100)
    kept = sample_positions(sequence, position, 0.1, seed=0)
    assert 0.08 < kept.mean() < 0.12
    order = np.random.default_rng(0).permutation(len(sequence))
    assert (sample_positions(sequence[order], position[order], 0.1, seed=0) == kept[order]).all()
    assert (sample_positions(sequence, position, 0.1, seed=1) != kept).any()
    assert (kept <= sample_positions(sequence, position, 0.5, seed=0)).all()
    assert sample_positions(sequence, position, 1.0, seed=0) is None


def test_the_fingerprint_sees_every_change():
    ids = [np.array([1, 2, 3]), np.array([4])]
    same = fingerprint(ids, [[0, 1]], {"a": 1})
    assert same == fingerprint([array.astype(np.int64) for array in ids], [[0, 1]], {"a": 1})
    assert same != fingerprint(ids, [[0], [1]], {"a": 1})
    assert same != fingerprint(ids, [[0, 1]], {"a": 2})
    assert same != fingerprint([np.array([1, 2]), np.array([3, 4])], [[0, 1]], {"a": 1})
