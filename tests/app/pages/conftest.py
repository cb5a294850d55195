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
