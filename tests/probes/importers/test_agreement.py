"""Do ids belong to the logits beside them? Shares against a loop over rows; logits of other tokens are refused."""

import numpy as np
import pytest

from probes import pieces as size
from probes.errors import ProbeError
from probes.importers.npz import read_npz

T, L, E, K = 300, 3, 16, 4


def routed(seed=0, decimals=None):
    z = np.random.default_rng(seed).normal(size=(T, L, E)).astype(np.float32)
    z = z if decimals is None else z.round(decimals)
    return z, np.argsort(-z, axis=2, kind="stable")[..., :K]


def read(tmp_path, config=None, allow_mismatch=False, sequence_id=None, **data):
    path = tmp_path / "r.npz"
    np.savez(path, sequence_id=np.repeat([0, 1, 2], T // 3) if sequence_id is None else sequence_id, **data)
    return read_npz(path, config=config, allow_mismatch=allow_mismatch)


def one(found, words):
    (note,) = [note for note in found.notes if words in note]
    return note


def brute(z, ids):
    """Rows whose ids are some choice of k largest values, and rows that tie at the k-th place."""
    agree = tied = 0
    for row, chosen in zip(z.reshape(-1, E), ids.reshape(-1, ids.shape[-1]), strict=True):
        rest = [v for e, v in enumerate(row) if e not in chosen]
        agree += min(row[e] for e in chosen) >= max(rest)
        ordered = sorted(row, reverse=True)
        tied += ordered[K - 1] == ordered[K]
    return agree / (T * L), tied / (T * L)


@pytest.mark.parametrize("cells", [500, 4_000_000])
def test_the_shares_are_those_of_a_loop_over_rows(tmp_path, monkeypatch, cells):
    monkeypatch.setattr(size, "CELLS", cells)
    z, ids = routed(decimals=1)
    ids[:40, 0, 3] = [next(e for e in range(E) if e not in row) for row in ids[:40, 0]]  # some rows chose another
    agree, tied = brute(z, ids)
    assert 0.9 < agree < 1
    assert tied > 0.1
    note = one(read(tmp_path, experts=ids, logits=z), "ids are the")
    assert f"largest of their logits in {100 * agree:.1f} % of 900 rows; {100 * tied:.1f} % of the rows tie" in note


def test_the_other_of_two_that_tie_agrees_as_well(tmp_path):
    z, ids = routed(decimals=0)  # nearly every row ties
    highest = (E - 1) - np.argsort(-z[..., ::-1], axis=2, kind="stable")[..., :K]
    assert (np.sort(ids, 2) != np.sort(highest, 2)).any(-1).mean() > 0.5
    found = read(tmp_path, experts=highest, logits=z)
    assert "100.0 % of 900 rows" in one(found, "ids are the")
    assert np.array_equal(np.sort(found.arrays.experts, 2), np.sort(highest, 2))  # never another choice than given


def test_logits_alone_say_how_ties_were_decided(tmp_path):
    z, ids = routed(decimals=1)
    found = read(tmp_path, logits=z.astype(np.float16), k=K)
    tied = brute(z.astype(np.float16), ids)[1]
    assert f"{100 * tied:.1f} % of 900 rows tie at place 4, where the lower id is taken" in one(found, "the choice is")
    assert np.array_equal(found.arrays.experts, np.argsort(-z.astype(np.float16), 2, kind="stable")[..., :K])


WRONG = {
    "the logits of the next token": lambda z: np.roll(z, 1, 0),
    "the logits of the token before": lambda z: np.roll(z, -1, 0),
    "the logits of the file's tokens in reverse order": lambda z: z[::-1],
    "the logits of each sequence in reverse order": lambda z: z.reshape(3, T // 3, L, E)[:, ::-1].reshape(z.shape),
    "the logits of the next layer": lambda z: np.roll(z, 1, 1),
    "the logits of the layer before": lambda z: np.roll(z, -1, 1),
    "no more than logits of any other token": lambda z: np.random.default_rng(9).permutation(z),
}


@pytest.mark.parametrize("words", WRONG)
def test_logits_of_other_rows_are_refused_by_name_unless_allowed(tmp_path, words):
    z, ids = routed()
    with pytest.raises(ProbeError, match="--allow-mismatch") as error:
        read(tmp_path, experts=ids, logits=WRONG[words](z))
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    found = read(tmp_path, experts=ids, logits=WRONG[words](z), allow_mismatch=True)
    assert "margins and ranks of this run mean nothing" in one(found, words)


def test_layers_sorted_as_text_are_named(tmp_path):
    z = np.random.default_rng(0).normal(size=(60, 12, E))
    ids = np.argsort(-z, axis=2)[..., :K]
    by_name = sorted(range(12), key=str)
    with pytest.raises(ProbeError, match="no longer sorted as text"):
        read(tmp_path, experts=ids, logits=z[:, by_name], sequence_id=np.zeros(60, int))


def test_a_choice_that_a_strong_bias_makes_is_taken_with_a_note(tmp_path):
    """A bias stronger than the scores: few rows agree, and no other logits fit better."""
    z = np.random.default_rng(0).normal(size=(T, L, E))
    score = 1 / (1 + np.exp(-z)) + np.random.default_rng(1).normal(0, 0.5, size=E)
    ids = np.argsort(-score, axis=2)[..., :K]
    config = {"model_type": "deepseek_v3", "n_group": 1, "topk_group": 1}
    found = read(tmp_path, config, experts=ids, logits=z)
    assert "a correction bias, which the file does not hold" in one(found, "ids are the")
    assert found.gating == "sigmoid: sigmoid_bias"
    with pytest.raises(ProbeError, match="next token"):
        read(tmp_path, config, experts=ids, logits=np.roll(z, 1, 0))


def test_a_file_of_few_rows_is_not_judged(tmp_path):
    z, ids = routed()
    found = read(tmp_path, experts=ids[:5, :1], logits=z[5:10, :1], sequence_id=np.zeros(5, int))
    assert one(found, "ids are the")


def test_every_expert_chosen_has_nothing_to_agree_with(tmp_path):
    z, _ = routed()
    found = read(tmp_path, experts=np.argsort(-z, 2), logits=z)
    assert [note for note in found.notes if "ids are" in note] == []
