"""The sample model in float32, so that what an intervention does is exact up to rounding."""

import pytest

from probes.model import load_model
from probes.sample import sample_path


@pytest.fixture(scope="session")
def sample():
    """(model, tokenizer)."""
    return load_model(sample_path() / "model", dtype="float32")
