"""One trace of made-up routing for the tests that only read."""

import pytest

from tests.store.made import Plan, write


@pytest.fixture(scope="session")
def made_trace(tmp_path_factory):
    """A complete run: three layers of two shapes, bfloat16 logits of half the tokens, labels, missing rows, vectors."""
    path = tmp_path_factory.mktemp("made") / "trace.duckdb"
    write(path, Plan(logits="bfloat16", logit_rate=0.5, outputs=True), batches=8)
    return path
