"""Record what the routers and experts of a mixture-of-experts model do, by forward hooks.

    from probes.capture import Want, capture

    with capture(model, Want(norms=True)) as recorder:
        model(**inputs)
    for forward in recorder.take():
        forward.routing[3].experts

Two hook points per MoE layer: the router module (logits) and the experts container (the ids and weights the experts
really receive, and every chosen expert's own output). `self_test(model)` says what a model can give.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from probes.capture.want import Want

if TYPE_CHECKING:
    from probes.capture.check import self_test
    from probes.capture.discovery import MoELayer, discover
    from probes.capture.forward import Forward, Hidden
    from probes.capture.hooks import Hooks, lock_of
    from probes.capture.recorder import Recorder, capture
    from probes.capture.report import LayerReport, Report

_WHERE = {
    "capture": "recorder",
    "Recorder": "recorder",
    "discover": "discovery",
    "MoELayer": "discovery",
    "self_test": "check",
    "Report": "report",
    "LayerReport": "report",
    "Forward": "forward",
    "Hidden": "forward",
    "Hooks": "hooks",
    "lock_of": "hooks",
}

__all__ = [
    "Forward", "Hidden", "Hooks", "LayerReport", "MoELayer", "Recorder", "Report", "Want",
    "capture", "discover", "lock_of", "self_test",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """torch is imported only when something that needs it is asked for."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
