"""Order of the slots of imported rows, against a loop over rows."""

import numpy as np
import pytest

from probes import pieces as size
from probes.importers.npz import read_npz

T, L, E, K = 400, 2, 32, 4


def made(seed=0, layers=L):
    """Exact routing: logits, and ids and softmax weights in descending order."""
    z = np.random.default_rng(seed).normal(size=(T, layers, E)).astype(np.float32)
    ids = np.argsort(-z, axis=2)[..., :K]
    p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    return z, ids, np.take_along_axis(p, ids, 2).astype(np.float32)


def shuffled(seed, *arrays):
    order = np.argsort(np.random.default_rng(seed).random(arrays[0].shape), axis=-1)
    return [np.take_along_axis(array, order, -1) for array in arrays]


def read(tmp_path, **data):
    path = tmp_path / "r.npz"
    np.savez(path, sequence_id=np.zeros(T, int), **data)
    return read_npz(path)


def about_order(found):
    return [note for note in found.notes if "put in order" in note]


def test_ids_sorted_by_number_beside_logits_come_in_order_with_one_note(tmp_path):
    z, ids, _ = made(layers=1)
    given = np.sort(ids, axis=2)
    assert (given[..., 0] == ids[..., 0]).mean() < 0.3
    found = read(tmp_path, experts=given, logits=z)
    assert np.array_equal(found.arrays.experts, ids)
    moved = int((given != ids).any(-1).sum())
    assert about_order(found) == [
        f"{moved} of 400 rows ({moved / 4:.1f} %) did not stand in descending order of logit; they were put in order"
    ]


@pytest.mark.parametrize("cells", [100, 4_000_000])
def test_what_belongs_to_a_slot_moves_along(tmp_path, monkeypatch, cells):
    monkeypatch.setattr(size, "CELLS", cells)
    _, ids, weights = made()
    norm, largest = ids * 2.0 + 0.5, ids + 0.25  # a number that names its expert
    e, w, n, a = shuffled(1, ids, weights, norm, largest)
    found = read(tmp_path, experts=e, weights=w, output_norm=n, output_absmax=a, num_experts=E).arrays
    assert np.array_equal(found.experts, ids)
    assert np.array_equal(found.weights, weights)
    assert np.array_equal(found.output_norm, norm)
    assert np.array_equal(found.output_absmax, largest)


def test_weights_come_before_logits_and_logits_decide_equal_weights(tmp_path):
    z, ids, weights = made()
    rising = np.sort(weights, axis=2)  # the weakest of the logits weighs most
    found = read(tmp_path, experts=ids, weights=rising, logits=z).arrays
    assert np.array_equal(found.experts, ids[..., ::-1])
    equal = read(tmp_path, experts=np.sort(ids, 2), weights=np.full(ids.shape, 0.25), logits=z).arrays
    assert np.array_equal(equal.experts, ids)


def test_equal_weights_stay_as_given(tmp_path):
    _, ids, _ = made()
    (e,) = shuffled(2, ids)
    found = read(tmp_path, experts=e, weights=np.full(ids.shape, 0.25), num_experts=E)
    assert np.array_equal(found.arrays.experts, e)
    assert about_order(found) == []


def test_rows_without_weights_go_by_logits_and_rows_without_either_stay(tmp_path):
    z, ids, weights = made()
    e, w = shuffled(3, ids, weights)
    w[::2] = np.nan
    found = read(tmp_path, experts=e, weights=w, logits=z).arrays
    assert np.array_equal(found.experts, ids)
    found = read(tmp_path, experts=e, weights=w, num_experts=E).arrays
    assert np.array_equal(found.experts[::2], e[::2])
    assert np.array_equal(found.experts[1::2], ids[1::2])


def test_empty_slots_go_last_and_the_others_into_order(tmp_path):
    z, ids, weights = made()
    dropped = np.random.default_rng(4).random(ids.shape) < 0.3
    e, w = shuffled(5, np.where(dropped, -1, ids), weights)
    found = read(tmp_path, experts=e, weights=w, logits=z).arrays
    for token in range(T):
        for layer in range(L):
            left = ids[token, layer][~dropped[token, layer]].tolist()
            assert found.experts[token, layer].tolist() == left + [-1] * (K - len(left))
    assert np.isnan(found.weights[found.experts < 0]).all()


def test_sorted_ids_without_weights_and_logits_get_a_note_and_others_none(tmp_path):
    _, ids, _ = made()
    for given, words in ((np.sort(ids, 2), "ids ascend by number"), (-np.sort(-ids, 2), "ids descend by number")):
        found = read(tmp_path, experts=given, num_experts=E)
        assert np.array_equal(found.arrays.experts, given)
        assert len(found.notes) == 1
        assert words in found.notes[0]
        assert "ranks mean nothing" in found.notes[0]
    assert read(tmp_path, experts=ids, num_experts=E).notes == []
    pairs = read(tmp_path, experts=ids[..., :2], num_experts=E)  # half of random pairs ascend
    assert pairs.notes == []
    part = np.sort(ids, 2)
    part[:, :, 3] = -1
    assert "ids ascend" in read(tmp_path, experts=part, num_experts=E).notes[0]
