"""Attach to a model, record its forward passes, detach."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import get_ident
from typing import Any

import numpy as np
import torch

from probes.capture.check import self_test
from probes.capture.discovery import MoELayer
from probes.capture.forward import Forward, decoded, located_in
from probes.capture.hidden import hidden_points
from probes.capture.hooks import lock_of
from probes.capture.host import layer_arrays
from probes.capture.inputs import Inputs
from probes.capture.late import finish
from probes.capture.report import LayerReport, Report
from probes.capture.shared import shared_points
from probes.capture.stage import Member, on_stage, stage_of
from probes.capture.tap import OBSERVE, REWRITE, Session, Tap
from probes.capture.transfer import Transfer
from probes.capture.want import Want
from probes.capture.within import roots
from probes.errors import ProbeError
from probes.families.layout import Point
from probes.routing import Router


@contextmanager
def capture(model: Any, want: Want | None = None, *, max_bytes: int = 1 << 30) -> Iterator[Recorder]:
    """Record what the routers and experts of `model` do while the block runs.

    Holds the model's lock: another thread that wants to capture or steer the same model waits. Records the passes of
    the entering thread only, through whichever wrapper the model was called, and whatever steers it, entered before or
    after. `max_bytes` bounds the expanded input of one layer; longer passes are observed in pieces
    (slower, same numbers). ProbeError if the model has no routers, is in training mode, is compiled, or cannot give
    what is wanted; on leaving, if its routers ran and no pass was seen to begin.
    """
    want = want or Want()
    with lock_of(model):
        report = self_test(model)
        recorder = Recorder(model, want, report, max_bytes)
        with on_stage(model, recorder):
            yield recorder
        recorder.complain()


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


class Recorder(Member):
    """What `capture` hands out. `take()` gives the passes since the last take."""

    rank = 1

    def __init__(self, model: Any, want: Want, report: Report, max_bytes: int) -> None:
        self.model = model
        self._owner = get_ident()
        self.report = report
        self._want = want
        self._passes: list[tuple[_Root, _Pass]] = []
        self._taps: dict[int, Tap] = {}
        self._seen = self._elsewhere = 0
        chosen = _chosen(report, want)
        self._reports = {r.layer: r for r in chosen}
        self.layers = [r.found for r in chosen]
        self._places = [_Root(m, stream, self._wanted(found)) for m, stream, found in roots(model, _layers(report))]
        self.roots = [root.module for root in self._places]
        for root in self._places:
            for found in root.layers:
                self._taps[found.layer] = _tap(want, root.session, self._reports[found.layer], max_bytes)

    def _wanted(self, found: list[MoELayer]) -> list[MoELayer]:
        return [m for m in found if m.layer in self._reports]

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
        """Every hook this recording needs inside of a pass."""
        self._fit()
        points = [p for m in self.layers for p in m.layout.points(m.parts, self._taps[m.layer])]
        if self._want.hidden:
            points += self._hidden_points()
        if self._want.shared:
            points += [p for m in self.layers for p in shared_points(m, self._taps[m.layer])]
        return points

    def _fit(self) -> None:
        """Go by what else is on the model now: which slots are dropped, and who else replaces the experts' calls."""
        stage = stage_of(self.model)
        drops, alone = stage.drops, stage.together(Recorder) <= 1
        for layer, tap in self._taps.items():
            tap.drops = layer in drops
            mode = self._reports[layer].mode
            tap.mode = mode if alone or mode != REWRITE else OBSERVE

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

    def _place(self, module: Any) -> _Root:
        return next(root for root in self._places if root.module is module)

    def begin(self, module: Any, inputs: Inputs) -> None:
        root = self._place(module)
        for found in root.layers:
            self._taps[found.layer].take()  # an earlier pass that ended in an exception leaves nothing behind
        root.session.real = inputs.recorded() if self._want.moments else None
        root.session.thread = get_ident()

    def end(self, module: Any, inputs: Inputs) -> None:
        root = self._place(module)
        if root.session.thread == get_ident():
            root.session.thread = None
            self._seen += 1
            self._passes.append((root, self._collect(root, inputs)))

    def failed(self, module: Any) -> None:
        root = self._place(module)
        root.session.thread = None
        self._seen += 1
        for found in root.layers:
            self._taps[found.layer].take()

    def elsewhere(self) -> None:
        self._elsewhere += 1

    def complain(self) -> None:
        """ProbeError where routers ran and no pass was recorded; a warning where passes ran in another thread only."""
        missed = sum(root.session.missed for root in self._places)
        if missed and not self._seen:
            raise ProbeError(
                f"the model's routers ran {missed} times, but never within a call of "
                f"{type(self.roots[0]).__name__}: nothing was recorded"
            )
        if self._elsewhere and not self._seen:
            logging.getLogger(__name__).warning(
                "%d passes ran in another thread and were not recorded; only the thread that entered capture is",
                self._elsewhere,
            )

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
        mask, position, phase = located_in(inputs, *inputs.arrays(located))
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
            decoded=decoded(inputs),
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


def _layers(report: Report) -> list[MoELayer]:
    """All layers, since where a pass begins depends on all of them."""
    return [r.found for r in report.layers]


def _tap(want: Want, session: Session, report: LayerReport, max_bytes: int) -> Tap:
    return Tap(
        want if report.outputs else want.without_slots(),
        session,
        mode=report.mode,
        padded=report.padded,
        copy=report.copy,
        max_bytes=max_bytes,
        num_experts=report.router.num_experts,
    )
