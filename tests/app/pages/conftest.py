"""Traces that the tests of several pages need beside those of tests/app."""

import numpy as np
import pytest

from probes.ingest import import_npz


@pytest.fixture(scope="session")
def unlabelled(tmp_path_factory):
    """Imported from a neutral file: choices and nothing else, not even labels or text."""
    folder = tmp_path_factory.mktemp("imported")
    rng = np.random.default_rng(0)
    experts = np.argsort(rng.random((90, 3, 8)), axis=2)[:, :, :2]
    np.savez(folder / "a.npz", experts=experts, sequence_id=np.arange(90) // 15, num_experts=8, k=2)
    import_npz(folder / "a.npz", folder / "a.duckdb")
    return folder / "a.duckdb"


@pytest.fixture(scope="session")
def measured(tmp_path_factory):
    """With outputs' maxima: expert 2 of layer 1 puts out a thousand times as much at the first token of sequence 3."""
    folder = tmp_path_factory.mktemp("measured")
    rng = np.random.default_rng(1)
    experts = np.argsort(rng.random((200, 4, 8)), axis=2)[:, :, :2]
    experts[60, 1] = [2, 0]
    absmax = rng.gamma(9, 0.1, experts.shape).astype(np.float32)
    absmax[60, 1, 0] = 1000.0
    words = np.where(np.arange(200) % 20 == 0, "<s>", "<img src=x onerror=alert(1)>")
    sequence = np.arange(200) // 20
    np.savez(folder / "m.npz", experts=experts, sequence_id=sequence, num_experts=8, k=2, output_absmax=absmax,
             output_norm=absmax, token=words, label=np.array(["a", "b"] * 5))  # fmt: skip
    import_npz(folder / "m.npz", folder / "m.duckdb")
    return folder / "m.duckdb"
