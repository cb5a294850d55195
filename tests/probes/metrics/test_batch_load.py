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


def test_packed_batches_run_over_the_ends_of_sequences():
    """Three sequences of 2, 3 and 1 tokens, in batches of 3: by hand, [0 0 1] and [1 1 0], each 2/1.5 of the mean."""
    case = {"experts": [[0], [0], [1], [1], [1], [0]], "sequence_id": [4, 4, 2, 2, 2, 9], "num_experts": 2, "size": 3}
    table = metrics.batch_load(**case, batch=("packed", "consecutive")).set_index("batch")
    packed = table.loc["3 consecutive tokens, sequences one after the other"]
    assert (packed["n_batches"], packed["max_over_mean"]) == (2, pytest.approx(2 / 1.5))
    assert packed["overflow_share"] == 0  # two of three fit: C = ceil(3 / 2)
    alone = table.loc["3 consecutive tokens of a sequence"]
    assert (alone["n_batches"], alone["max_over_mean"]) == (1, 2.0)


@pytest.mark.slow
def test_the_sample_s_batches_are_less_even_than_its_whole(tmp_path):
    """Of a trace recorded anew, against loops over the batches; other processors round otherwise."""
    from probes import analyze
    from probes.demo import make_demo
    from store.trace import open_trace

    path = tmp_path / "demo.duckdb"
    run_id = make_demo(path)[0].run_id
    parts = list(open_trace(path).chunks(run_id, columns=("experts",)))
    ids = np.concatenate([part["experts"] for part in parts])[:, 0]
    rng = np.random.default_rng(3)
    batches = {
        "64 consecutive tokens, sequences one after the other": np.split(ids[: len(ids) // 64 * 64], len(ids) // 64),
        "64 tokens drawn from all sequences": [ids[rng.choice(len(ids), 64, replace=False)] for _ in range(1000)],
    }
    table = analyze(path, "batch_load", batch=("packed", "mixed"), layers="0").set_index("batch")
    for name, (over, busiest) in {name: _by_hand(given) for name, given in batches.items()}.items():
        near = 0.01 if "drawn" in name else 1e-9
        assert table.loc[name, "overflow_share"] == pytest.approx(over, rel=5 * near)
        assert table.loc[name, "max_over_mean"] == pytest.approx(busiest, rel=5 * near)
    whole = analyze(path, "load", summary=True, layers="0")["max_over_mean"][0]
    packed, mixed = table["max_over_mean"]
    assert whole == pytest.approx(1.66, abs=0.05)
    assert (packed, mixed) == (pytest.approx(4.64, abs=0.1), pytest.approx(1.96, abs=0.1))
    assert table["overflow_share"].tolist() == [pytest.approx(0.438, abs=0.01), pytest.approx(0.196, abs=0.01)]


def _by_hand(batches):
    """Overflow share and busiest over mean of 16 experts, top-2, γ = 1."""
    loads = [np.array([(batch == e).sum() for e in range(16)]) for batch in batches]
    over = [sum(max(n - 8, 0) for n in load) / 128 for load in loads]
    return np.mean(over), np.mean([max(load) / 8 for load in loads])


@pytest.mark.parametrize("kind", ["mixed", "decode", "consecutive", "packed"])
def test_reading_in_pieces_changes_nothing(kind, monkeypatch):
    whole = by_kind(batch=kind)
    monkeypatch.setattr(function, "_CHUNK_CELLS", 256)
    assert by_kind(batch=kind).equals(whole)


def test_another_seed_draws_others():
    assert not by_kind(batch="mixed", draw=1).equals(by_kind(batch="mixed"))


def test_too_few_tokens_make_no_batch():
    table = metrics.batch_load([[0], [1]], num_experts=2, size=64)
    assert table.set_index("batch")["n_batches"].tolist() == [0, 0, 1, 0, 0]
    assert table["max_over_mean"].isna().tolist() == [True, True, False, True, True]


def test_more_devices_than_experts_are_refused():
    with pytest.raises(UsageError, match="--devices must be at most 2"):
        metrics.batch_load([[0], [1]], num_experts=2, devices=3)
