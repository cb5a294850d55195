"""What the capture tests share: tiny models, one pass, and rows of one sequence."""

import numpy as np
import torch

from probes.capture import Want, capture
from probes.families import family
from probes.families.tiny import tiny_model

TOKENS = list(range(3, 120))


def build(name, dtype="float32", seed=0):
    return tiny_model(family(name), dtype, seed)


def ids_of(*rows):
    return torch.tensor(rows)


@torch.no_grad()
def record(model, want=None, **inputs):
    """(passes, recorder) of one call."""
    with capture(model, want or Want()) as recorder:
        model(**inputs)
        return recorder.take(), recorder


def rows(forward, layer, sequence):
    """Routing of the real tokens of one sequence, in order: a dict of arrays."""
    routing = forward.routing[layer]
    where = np.flatnonzero(forward.mask[sequence]) + sequence * forward.length
    return {
        name: getattr(routing, name)[where]
        for name in ("experts", "weights", "logits", "output_norm", "output_absmax", "input_absmax")
    }


def same_routing(first, second, atol=1e-5):
    """Equal ids, and everything else equal up to rounding."""
    assert np.array_equal(first["experts"], second["experts"])
    for name in first:
        np.testing.assert_allclose(first[name], second[name], rtol=1e-4, atol=atol, err_msg=name)
