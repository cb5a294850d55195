"""Attach to a model, record its forward passes, detach."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from threading import get_ident
from typing import Any

import numpy as np
import torch

from probes.capture.check import self_test
from probes.capture.discovery import MoELayer
from probes.capture.forward import Forward, locate
from probes.capture.hidden import hidden_points
from probes.capture.hooks import Hooks, lock_of
from probes.capture.host import layer_arrays
from probes.capture.inputs import Inputs, read_inputs, roots
from probes.capture.late import finish
from probes.capture.report import LayerReport, Report
from probes.capture.shared import shared_points
from probes.capture.tap import Session, Tap
from probes.capture.transfer import Transfer
from probes.capture.want import Want
from probes.errors import ProbeError
from probes.families.layout import Point
from probes.routing import Router


@contextmanager
def capture(model: Any, want: Want | None = None, *, max_bytes: int = 1 << 30) -> Iterator[Recorder]:
    """Record what the routers and experts of `model` do while the block runs.

    Holds the model's lock: another thread that wants to capture or steer the same model waits. Records the passes of
    the entering thread only. `max_bytes` bounds the expanded input of one layer; longer passes are observed in pieces
    (slower, same numbers). ProbeError if the model has no routers, is in training mode, is compiled, or cannot give
    what is wanted.
    """
    want = want or Want()
    with lock_of(model):
        report = self_test(model)
        recorder = Recorder(model, want, report, max_bytes)
        with ExitStack() as stack:
            stack.enter_context(Hooks(recorder.points()))
            yield recorder


@dataclass
class _Pass:
    """A finished pass whose tensors are on their way to the host."""

    inputs: Inputs
    names: list[tuple[int, str]]
    transfer: Transfer


@dataclass
class _Root:
    """A module whose forward is one pass (the model; or encoder and decoder), and the layers inside it."""

    module: Any
    stream: str
    layers: list[MoELayer]
    session: Session = field(default_factory=Session)
    inputs: Inputs | None = None


class Recorder:
    """What `capture` hands out. `take()` gives the passes since the last take."""

    def __init__(self, model: Any, want: Want, report: Report, max_bytes: int) -> None:
        self.model = model
        self._owner = get_ident()
        self.report = report
        self._want = want
        self._passes: list[tuple[_Root, _Pass]] = []
        self._taps: dict[int, Tap] = {}
        chosen = _chosen(report, want)
        drops = _drops(model)
        self._reports = {r.layer: r for r in chosen}
        self.layers = [r.found for r in chosen]
        self._roots = [_Root(m, stream, found) for m, stream, found in roots(model, self.layers)]
        for root in self._roots:
            for found in root.layers:
                self._taps[found.layer] = _tap(
                    want, root.session, self._reports[found.layer], max_bytes, found.layer in drops
                )

    @property
    def routers(self) -> tuple[Router, ...]:
        """The routers that are recorded, by layer."""
        return tuple(self._reports[m.layer].router for m in self.layers)

    @property
    def gating_parameters(self) -> dict[int, dict[str, Any]]:
        """layer -> what its gating depends on besides the logits; JSON-able, for the provenance of a run."""
        return {m.layer: m.parameters for m in self.layers}

    @property
    def moments(self) -> dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """layer -> (count [E], mean [E, H], m2 [E, H]) of the expert outputs so far."""
        return {layer: tap.moments.arrays() for layer, tap in self._taps.items() if tap.moments is not None}

    def take_moments(self) -> dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """`moments` since the last call; the next ones start from nothing."""
        found = self.moments
        for tap in self._taps.values():
            tap.moments = None
        return found

    def points(self) -> list[Point]:
        """Every hook this recording needs."""
        points = [p for m in self.layers for p in m.layout.points(m.parts, self._taps[m.layer])]
        if self._want.hidden:
            points += self._hidden_points()
        if self._want.shared:
            points += [p for m in self.layers for p in shared_points(m, self._taps[m.layer])]
        for root in self._roots:
            points.append(Point(root.module, "before", self._start(root)))
            points.append(Point(root.module, "after", self._stop(root)))
        return points

    def _hidden_points(self) -> list[Point]:
        norms = [(m, self._reports[m.layer].norm) for m in self.layers]
        points = [p for m, norm in norms if norm is not None for p in hidden_points(norm, m, self._taps[m.layer])]
        if not points:
            raise ProbeError("the residual stream around the experts was not found in this model; leave `hidden` out")
        return points

    def take(self) -> list[Forward]:
        """The passes since the last take, on the host. Their tensors were sent in one copy per pass."""
        passes, self._passes = self._passes, []
        return [self._finished(root, done) for root, done in passes]

    def _start(self, root: _Root) -> Any:
        taps = [self._taps[m.layer] for m in root.layers]

        def before(module: Any, args: Any, kwargs: Any) -> None:
            if get_ident() != self._owner:
                return
            for tap in taps:
                tap.take()  # an earlier pass that ended in an exception leaves nothing behind
            root.inputs = read_inputs(args, kwargs)
            root.session.real = root.inputs.real() if self._want.moments else None
            root.session.thread = get_ident()

        return before

    def _stop(self, root: _Root) -> Any:
        def after(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            if root.session.thread != get_ident():
                return
            inputs, root.session.thread = root.inputs, None
            if inputs is not None:
                self._passes.append((root, self._collect(root, inputs)))

        return after

    def _collect(self, root: _Root, inputs: Inputs) -> _Pass:
        finish(self._taps[m.layer] for m in root.layers)
        names, tensors = [], inputs.tensors()
        for found in root.layers:
            for name, values in self._taps[found.layer].take().items():
                names += [(found.layer, name)] * len(values)
                tensors += values
        return _Pass(inputs, names, Transfer(tensors))

    def _finished(self, root: _Root, done: _Pass) -> Forward:
        host = done.transfer.result()
        inputs = done.inputs
        located, host = host[: inputs.count], host[inputs.count :]
        mask, position, phase = locate(inputs.batch, inputs.length, *inputs.arrays(located), inputs.past)
        kept: dict[int, dict[str, list[torch.Tensor]]] = {m.layer: {} for m in root.layers}
        for (layer, name), tensor in zip(done.names, host, strict=True):
            kept[layer].setdefault(name, []).append(tensor)
        rows = inputs.batch * inputs.length
        arrays = {m.layer: layer_arrays(kept[m.layer], rows, m, self._want.weights) for m in root.layers}
        return Forward(
            inputs.batch,
            inputs.length,
            mask,
            position,
            phase,
            routing={layer: a.routing for layer, a in arrays.items() if a.routing is not None},
            logits_bf16=any(a.bf16 for a in arrays.values()),
            missing={layer: a.missing for layer, a in arrays.items() if a.missing},
            hidden={layer: a.hidden for layer, a in arrays.items() if a.hidden is not None},
            router_inputs={layer: a.router_inputs for layer, a in arrays.items() if a.router_inputs is not None},
            shared={layer: a.shared for layer, a in arrays.items() if a.shared is not None},
            expert_norm={layer: a.expert_norm for layer, a in arrays.items() if a.expert_norm is not None},
            stream=root.stream,
        )


def _chosen(report: Report, want: Want) -> list[LayerReport]:
    usable = [r for r in report.layers if r.capability != "nothing"]
    if not usable:
        why = next((r.words[0] for r in report.layers if r.words), report.summary)
        raise ProbeError(f"nothing can be recorded from this model: {why}")
    if want.layers is None:
        return usable
    known = {r.layer for r in usable}
    for layer in want.layers:
        if layer not in known:
            raise ProbeError(f"layer {layer} has no router that can be recorded; layers that have: {sorted(known)}")
    return [r for r in usable if r.layer in want.layers]


def _drops(model: Any) -> frozenset[int]:
    """Layers in which the model is being steered so that a weight of 0 stands for no expert."""
    from probes.steering import active

    steering = active(model)
    return frozenset() if steering is None else steering.drops


def _tap(want: Want, session: Session, report: LayerReport, max_bytes: int, drops: bool) -> Tap:
    return Tap(
        want if report.outputs else want.without_slots(),
        session,
        mode=report.mode,
        padded=report.padded,
        copy=report.copy,
        max_bytes=max_bytes,
        num_experts=report.router.num_experts,
        drops=drops,
    )
