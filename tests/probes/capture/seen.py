"""What the experts of a model really receive, seen by plain hooks of torch: the measure of every capture here."""

from contextlib import contextmanager

import numpy as np
import torch

from probes.capture import discover, self_test


@contextmanager
def received(model):
    """layer -> ids [T, k] of each call of its experts container, in order; the self-test is over before."""
    self_test(model)
    calls = {found.layer: [] for found in discover(model)}

    def look(layer):
        def after(module, args, kwargs, output):
            ids = next(v for v in (*args, *kwargs.values()) if torch.is_tensor(v) and not v.is_floating_point())
            weights = [v for v in (*args, *kwargs.values()) if torch.is_tensor(v) and v.shape == ids.shape][-1]
            calls[layer].append((ids.clone().numpy(), weights.detach().clone().numpy()))

        return after

    handles = [m.parts.experts.register_forward_hook(look(m.layer), with_kwargs=True) for m in discover(model)]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def sets(ids, weights=None):
    """[T] the set of experts of each token; those of weight 0 are dropped where weights are given."""
    used = np.ones(ids.shape, bool) if weights is None else weights != 0
    return [frozenset(row[keep & (row >= 0)].tolist()) for row, keep in zip(ids, used, strict=True)]


def same(forwards, calls, dropped=False):
    """Every pass was recorded, each with the very choice that its experts received."""
    assert {layer: len(some) for layer, some in calls.items()} == dict.fromkeys(calls, len(forwards))
    for number, forward in enumerate(forwards):
        for layer, some in calls.items():
            ids, weights = some[number]
            assert sets(forward.routing[layer].experts) == sets(ids, weights if dropped else None)
