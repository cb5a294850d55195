"""The neutral npz file: what it may hold, and every refusal."""

import numpy as np
import pytest

from probes.errors import ProbeError
from probes.importers.npz import read_npz, top_k

TOKENS, LAYERS, K, EXPERTS = 6, 2, 2, 4


def routing(**changes):
    """A small valid file; a change of None leaves the key out."""
    random = np.random.default_rng(0)
    experts = np.stack([random.permutation(EXPERTS)[:K] for _ in range(TOKENS * LAYERS)]).reshape(TOKENS, LAYERS, K)
    data = {"experts": experts, "sequence_id": np.array([0, 0, 0, 5, 5, 2]), "num_experts": np.array(EXPERTS)}
    return {key: value for key, value in {**data, **changes}.items() if value is not None}


def save(tmp_path, **changes):
    path = tmp_path / "routing.npz"
    np.savez(path, **routing(**changes))
    return path


def refusal(tmp_path, **changes):
    with pytest.raises(ProbeError) as error:
        read_npz(save(tmp_path, **changes))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_full_file_comes_through_unchanged(tmp_path):
    logits = np.zeros((TOKENS, LAYERS, EXPERTS), np.float32)
    np.put_along_axis(logits, routing()["experts"], np.array([2, 1], np.float32)[None, None], axis=2)
    extra = {
        "logits": logits,
        "weights": np.full((TOKENS, LAYERS, K), 0.5, np.float32),
        "label": np.array(["b", "a", "b"]),
        "token": np.array(list("abcdef")),
        "token_id": np.arange(TOKENS),
        "layer": np.array([3, 9]),
    }
    found = read_npz(save(tmp_path, **extra))
    arrays = found.arrays
    assert (arrays.experts == routing()["experts"]).all()
    assert (arrays.logits == logits).all()
    assert arrays.label_names == ("a", "b")
    assert arrays.label.tolist() == [1, 1, 1, 0, 0, 1]
    assert arrays.layers.tolist() == [3, 9]
    assert [note[:62] for note in found.notes] == [
        "logits are taken as softmax router logits whose k largest are ",
        "ids are the 2 largest of their logits in 100.0 % of 12 rows; 0",
    ]


def test_logits_alone_choose_their_top_k_and_ties_take_the_lower_id(tmp_path):
    logits = np.zeros((1, 1, 4))
    logits[0, 0, 3] = 1
    path = tmp_path / "l.npz"
    np.savez(path, logits=logits, sequence_id=[0], k=3)
    assert read_npz(path).arrays.experts.tolist() == [[[3, 0, 1]]]


def test_the_choice_is_made_in_the_precision_of_the_file(tmp_path):
    logits = np.array([[[1.0, 1.0 + 1e-12, 0.0]]])
    assert top_k(logits, 1).tolist() == [[[1]]]
    path = tmp_path / "l.npz"
    np.savez(path, logits=logits, sequence_id=[0], k=1)
    assert read_npz(path).arrays.experts.tolist() == [[[1]]]


def test_negative_ids_are_missing(tmp_path):
    experts = routing()["experts"].copy()
    experts[0, 0] = -7
    assert read_npz(save(tmp_path, experts=experts)).arrays.experts[0, 0].tolist() == [-1, -1]


def test_unsigned_ids_are_read(tmp_path):
    found = read_npz(save(tmp_path, experts=routing()["experts"].astype(np.uint8)))
    assert (found.arrays.experts == routing()["experts"]).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"experts": np.full((TOKENS, LAYERS, K), EXPERTS)}, "names expert 4"),
        ({"experts": np.ones((TOKENS, LAYERS, K), int)}, "names expert 1 twice in layer 0"),
        ({"experts": np.zeros((TOKENS, LAYERS))}, "must hold integers"),
        ({"experts": np.zeros((TOKENS, K), int)}, "shape (6, 2)"),
        ({"experts": np.zeros((3, LAYERS, K), int)}, "sequence_id has 6 tokens"),
        ({"experts": None}, "needs 'experts' or 'logits'"),
        ({"sequence_id": None}, "'sequence_id' is required"),
        ({"sequence_id": np.array([0, 1, 0, 1, 1, 1])}, "sequence 0 starts at token 0 and again at 2"),
        ({"sequence_id": np.array([-1, 0, 0, 0, 0, 0])}, "must not be negative"),
        ({"num_experts": None}, "'num_experts' is required"),
        ({"num_experts": np.array([4, 4])}, "one positive integer"),
        ({"num_experts": np.array(1)}, "there are 1"),
        ({"weights": np.zeros((TOKENS, LAYERS, 3))}, "expected (6, 2, 2)"),
        ({"weights": np.array(["a"])}, "must hold numbers"),
        ({"token": np.array([1, 2, 3, 4, 5, 6])}, "must hold strings"),
        ({"token": np.array(list("abcdef"), dtype=object)}, "Python objects"),
        ({"label": np.array(["a", "b"])}, "expected (3,)"),
        ({"layer": np.array([1, 1])}, "different, non-negative"),
        ({"layer": np.array([2, 1])}, "ascending"),
        ({"k": np.array(3)}, "'k' is 3"),
        ({"token_id": np.array([2**40] * TOKENS)}, "more than 32 bits"),
        ({"gating": np.array("argmax")}, "softmax or sigmoid"),
        ({"logits": np.zeros((TOKENS, LAYERS, 3))}, "'num_experts' is 4"),
    ],
)
def test_refused_with_one_clear_line(tmp_path, changes, words):
    assert words in refusal(tmp_path, **changes)


def test_nan_logits_are_refused_unless_allowed(tmp_path):
    logits = np.zeros((TOKENS, LAYERS, EXPERTS), np.float32)
    logits[2, 1, 0] = np.nan
    assert "token 2, layer index 1, expert 0" in refusal(tmp_path, logits=logits)
    assert read_npz(save(tmp_path, logits=logits), allow_missing=True).arrays.logits.shape == logits.shape


def test_k_is_required_with_logits_alone(tmp_path):
    path = tmp_path / "l.npz"
    np.savez(path, logits=np.zeros((1, 1, 4)), sequence_id=[0])
    with pytest.raises(ProbeError, match="'k' is required"):
        read_npz(path)


def test_all_zero_layers_are_flagged_as_dense(tmp_path):
    experts = routing()["experts"].copy()
    experts[:, 0] = 0
    found = read_npz(save(tmp_path, experts=experts))
    assert found.dense_layers == {0}
    assert "layer 0 is all zero" in found.notes[0]
    assert (found.arrays.experts[:, 0] == -1).all()


def test_unknown_keys_and_rising_weights_get_a_word(tmp_path):
    weights = np.tile(np.array([0.2, 0.8], np.float32), (TOKENS, LAYERS, 1))
    notes = read_npz(save(tmp_path, weights=weights, tokens=np.arange(3))).notes
    assert any("'tokens' (did you mean 'token'?)" in note for note in notes)
    assert any("12 of 12 rows (100.0 %) did not stand in descending order of weight" in note for note in notes)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04broken"])
def test_what_is_not_an_npz_says_so(tmp_path, content):
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    with pytest.raises(ProbeError, match=r"x\.npz is not a readable"):
        read_npz(path)


def test_a_single_array_is_not_an_archive(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(3))
    with pytest.raises(ProbeError, match="single array"):
        read_npz(tmp_path / "x.npy")
