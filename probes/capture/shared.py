"""How large the shared expert's outputs are: it is a module of its own, so one hook on it is enough.

What it returns is looked at before any gate weights it, as the routed experts' outputs are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from probes.capture.discovery import MoELayer
from probes.capture.forward import Shared
from probes.capture.tap import Tap, absmax
from probes.families.layout import Point

NAMES = ("shared_absmax", "shared_input_absmax")


def shared_points(found: MoELayer, tap: Tap) -> list[Point]:
    """The hook on the layer's shared expert; none where it has none."""

    def after(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        if tap.live:
            received = args[0] if args else next(iter(kwargs.values()))
            for name, values in zip(NAMES, (output, received), strict=True):
                tap.put(name, absmax(values.detach().reshape(-1, values.shape[-1])))

    return [Point(found.shared, "after", after)] if found.shared is not None else []


def take_shared(kept: dict[str, list[torch.Tensor]], rows: int) -> Shared | None:
    """What was kept of one layer, out of `kept`; None where the shared expert did not see all rows of the pass."""
    values = [torch.cat(kept.pop(name)) for name in NAMES if name in kept]
    if len(values) < len(NAMES) or any(len(v) != rows for v in values):
        return None
    output, received = (np.asarray(v.float()) for v in values)
    return Shared(output, received)
