"""Norms and maxima of small passes, all layers at once.

A decoding step has a handful of numbers per layer and costs what its calls cost: three reductions per layer are a
tenth of the step. So small outputs wait on the device until the pass is over, and are reduced together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch

from probes.capture.tap import Tap, absmax, norm

OUTPUTS, INPUTS, ORDER = "late_outputs", "late_inputs", "late_order"


def finish(taps: Iterable[Tap]) -> None:
    """Replace what waits in `taps` by its norms and maxima."""
    groups = defaultdict(list)
    for tap in taps:
        if OUTPUTS in tap.kept:
            groups[_kind(tap)].append(tap)
    for alike in groups.values():
        for pieces in zip(*(_pieces(tap) for tap in alike), strict=True):
            _reduce(alike, *zip(*pieces, strict=True))


def _kind(tap: Tap) -> tuple[object, ...]:
    return tuple((t.shape, t.dtype, t.device) for t in tap.kept[OUTPUTS] + tap.kept.get(ORDER, []))


def _pieces(tap: Tap) -> list[tuple[torch.Tensor | None, ...]]:
    outputs, inputs = tap.kept.pop(OUTPUTS), tap.kept.pop(INPUTS)
    order = tap.kept.pop(ORDER, [None] * len(outputs))
    return list(zip(outputs, inputs, order, strict=True))


def _reduce(taps: list[Tap], outputs: tuple[torch.Tensor], inputs: tuple[torch.Tensor], order: tuple) -> None:
    values, received = torch.stack(outputs), torch.stack(inputs)
    sizes, largest, reached = norm(values), absmax(values), absmax(received)
    if order[0] is not None:
        places = torch.stack(order)
        if received.shape[1] == 1:  # of a single token the ids themselves were kept: they are all different
            places = places.sort(dim=-1).indices
        sizes, largest = (torch.empty_like(v).scatter_(1, places, v) for v in (sizes, largest))
    shape = (received.shape[1], -1)
    for tap, *found in zip(taps, sizes, largest, reached, strict=True):
        tap.put("output_norm", found[0].view(shape))
        tap.put("output_absmax", found[1].view(shape))
        tap.put("input_absmax", found[2])
