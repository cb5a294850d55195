"""Test-time adaptation: small things learned beside the model, which stays bit for bit what it is.

    from probes.interventions.adaptation import learn_vectors, router_tuning

    spec = learn_vectors(model, inputs)                      # rewiring, kept as an intervention
    tuned = router_tuning(model, examples, tokenizer)        # which experts are this task's?
    tuned.table
    with tuned.applied(model):
        ...

Rewiring and C3PO while decoding are the strategies `rewire` and `c3po` of `probes.interventions.decoding`.
"""

from __future__ import annotations

from typing import Any

_WHERE = {
    "learn_vectors": "rewire",
    "rewiring": "rewire",
    "references": "c3po",
    "References": "c3po",
    "Example": "examples",
    "read_examples": "examples",
    "applied": "frozen",
    "expert_tuning": "tuning",
    "router_tuning": "tuning",
    "Tuned": "tuning",
}
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    """Looked up when first used: torch is behind all of these."""
    import importlib

    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
