"""Carries out a plan: hooks at a router and its experts that edit one forward pass after another.

Before selection, the router's own code runs on edited logits and an edited choice (`router_code`); after selection, the
experts receive edited ids and weights; what they return is edited where transformers would put a norm, or recomputed
where there is no such place. Only the layers a spec names are hooked, and nothing of the model is changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any

import torch

from probes.capture.check import LayerReport, Report
from probes.capture.experts import Call, combined, has_inside, read_call, run_expanded, slot_order
from probes.capture.inputs import MIXED, Inputs
from probes.capture.stage import Member
from probes.capture.within import roots
from probes.errors import ProbeError
from probes.families.adapted import bare
from probes.families.layout import Point, classify
from probes.families.parameters import top_k_set
from probes.interventions.base import STAGES
from probes.interventions.plan import Edit
from probes.interventions.router_code import Calls, Rerun
from probes.interventions.site import Pass

MAX_BYTES = 1 << 30  # largest expanded input of one layer to hold at once


class Engine(Member):
    """The hooks of a plan. Edits the passes of the thread that made it; what others run meanwhile stays as it is.

    passes            how many passes it was told of
    passes_elsewhere  those of other threads
    """

    rank = 0

    def __init__(self, model: Any, report: Report, calls: dict[int, Calls], edits: dict[int, tuple[Edit, ...]]) -> None:
        self.model = model
        self.drops = frozenset(la for la, some in edits.items() if any(e.declared.drops for e in some))
        self.passes = self.passes_elsewhere = 0
        reports = {r.layer: r for r in report.layers}
        self._layers = {layer: LayerEdits(reports[layer], calls[layer], some) for layer, some in edits.items()}

        found = [r.found for r in report.layers]
        self._places = {
            id(module): [self._layers[m.layer] for m in inside if m.layer in self._layers]
            for module, _, inside in roots(model, found)
        }
        self.roots = [module for module, _, _ in roots(model, found) if self._places[id(module)]]

    def points(self) -> list[Point]:
        """Every hook the plan needs inside of a pass."""
        return [point for layer in self._layers.values() for point in layer.points()]

    def begin(self, root: Any, inputs: Inputs) -> None:
        self.passes += 1
        forward = Pass(inputs)
        for layer in self._places[id(root)]:
            layer.begin(forward, forward.phase)

    def end(self, root: Any, inputs: Inputs) -> None:
        for layer in self._places[id(root)]:
            layer.end()

    def failed(self, root: Any) -> None:
        self.end(root, Inputs(0, 0))

    def elsewhere(self) -> None:
        self.passes_elsewhere += 1

    @property
    def missed(self) -> int:
        """How often an edited layer ran outside of any pass."""
        return sum(layer.missed for layer in self._layers.values())

    @property
    def hooked(self) -> bool:
        """Did any of its hooks see a pass?"""
        return any(layer.fired for layer in self._layers.values())

    @property
    def due(self) -> bool:
        """Was there a pass in which something was to be edited?"""
        return any(layer.due for layer in self._layers.values())

    def forget(self) -> None:
        """What acted until now was a trial."""
        for layer in self._layers.values():
            layer.acted = False

    @property
    def acted(self) -> bool:
        """Was any token in the scope of what it carries out?"""
        return any(bool(layer.acted) for layer in self._layers.values())


class LayerEdits:
    """The edits of one layer."""

    def __init__(self, report: LayerReport, calls: Calls, edits: tuple[Edit, ...]) -> None:
        self.report = report
        self.forward: Pass | None = None
        self.missed = 0
        self.fired = self.due = False
        self.acted: Any = False  # a bool, or one on the device: nobody waits for it while the model runs
        self._thread = get_ident()
        self._calls = calls
        self._edits = edits
        self._stages = {phase: _by_stage(edits, phase) for phase in ("prefill", "decode", MIXED)}
        self._now: dict[str, list[Edit]] = {}
        width = report.router.num_experts
        self._rerun = Rerun(calls, self._edit_logits, self._choose if self._has("key", "k") else None, width)
        self._logits: Any = None
        self._router_call: Any = None
        self._call: Call | None = None
        self._aside = False  # do the experts run on our account, beside the model's own pass?
        for edit in edits:
            edit.site.weigh = self._weigh
            edit.site.run_expert = self._run_expert

    def _has(self, *stages: str) -> bool:
        return any(getattr(edit.declared, stage) is not None for edit in self._edits for stage in stages)

    def _needs(self, what: str) -> bool:
        return any(what in edit.declared.needs for edit in self._edits)

    def points(self) -> list[Point]:
        """The hooks of this layer."""
        parts, layout = self.report.found.parts, self.report.found.layout
        points = []
        if self._has("logits", "key", "k"):
            points.append(Point(self._calls.module, "around", self._enter))
        if self._needs("logits") or self._needs("router"):
            points.append(Point(layout.logits_source(parts), "after", self._keep_logits))
        if self._needs("router"):
            points.append(Point(parts.router, "before", self._keep_router_call))
        if self._has("assign", "outputs"):
            points.append(Point(parts.experts, "before", self._before_experts, first=True))
        if self._has("outputs"):
            inside = has_inside(parts.experts)
            points.append(
                Point(bare(parts.experts), "inside", self._inside)
                if inside
                else Point(parts.experts, "after", self._again)
            )
        return points

    @property
    def _live(self) -> bool:
        """Does this thread's pass go through, one that we were told of?"""
        if get_ident() != self._thread:
            return False
        if self.forward is None:
            self.missed += not self._aside
            return False
        self.fired = True
        return True

    def end(self) -> None:
        """The pass is over."""
        self.forward = None

    def begin(self, forward: Pass, phase: str) -> None:
        """A pass starts."""
        self.forward, self._now, self._logits = forward, self._stages[phase], None
        self.due = self.due or any(self._now.values())
        if phase == MIXED:
            _refuse_mixed(self._now)
        for edit in self._edits:
            edit.site.forward, edit.site.logits = forward, None

    # Before selection

    def _enter(self) -> Any:
        now = self._now
        if not self._live or not (now["logits"] or now["key"] or now["k"]):
            return None
        return self._with_top_k(now["k"]) if now["k"] else self._rerun.restart()

    @contextmanager
    def _with_top_k(self, edits: list[Edit]) -> Iterator[None]:
        """Routers reshape by their own k as well, so that number changes with the choice, for this run."""
        parts, slots = self.report.found.parts, self.report.router.top_k
        self.acted = True
        for edit in edits:
            assert edit.declared.k is not None
            slots = edit.declared.k(edit.site, edit.options, slots)
        with top_k_set(parts, slots), self._rerun.restart():
            yield

    def _edit_logits(self, logits: torch.Tensor) -> torch.Tensor:
        flat = logits.reshape(-1, logits.shape[-1])
        for edit in self._now["logits"]:
            assert edit.declared.logits is not None
            edit.site.logits = flat
            flat = self._in_scope(edit, edit.declared.logits(edit.site, edit.options, flat), flat)
        self._logits = flat
        return flat.view_as(logits)

    def _choose(self, scores: torch.Tensor, k: int) -> torch.Tensor:
        flat = key = scores.reshape(-1, scores.shape[-1])
        for edit in self._now["key"]:
            assert edit.declared.key is not None
            edit.site.logits = self._logits
            key = self._in_scope(edit, edit.declared.key(edit.site, edit.options, key), key)
        for edit in self._now["k"]:
            assert edit.declared.k is not None
            k = edit.declared.k(edit.site, edit.options, k)
        ids = (flat if key is flat else key).topk(k, dim=-1).indices
        return ids.view(*scores.shape[:-1], k)

    def _in_scope(self, edit: Edit, edited: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        rows = self._rows(edit, len(before))
        return edited if rows is None else torch.where(rows[:, None], edited, before)

    def _rows(self, edit: Edit, count: int) -> Any:
        assert self.forward is not None
        rows = self.forward.rows(edit.site.spec, edit.site.generator)
        if self.acted is not True:
            self.acted = True if rows is None else rows.any() | self.acted
        if rows is not None and len(rows) != count:
            raise ProbeError(
                f"layer {edit.site.layer} sees {count} of {len(rows)} tokens, and not which: "
                f"{edit.declared.name} cannot be limited to some of them"
            )
        return rows

    # After selection

    def _keep_logits(self, module: Any, args: Any, kwargs: Any, output: Any) -> None:
        if self._live:
            self._logits = self.report.found.layout.logits(output)

    def _keep_router_call(self, module: Any, args: Any, kwargs: Any) -> None:
        if self._live:
            self._router_call = (args, kwargs)

    def _weigh(self, ids: torch.Tensor) -> torch.Tensor:
        """Weights [T, n] the router's own code gives the experts ids [T, n], on the logits as they were edited."""
        args, kwargs = self._router_call
        logits = self._logits
        choose = lambda scores, k: ids.view(*scores.shape[:-1], -1)  # noqa: E731
        mode = Rerun(self._calls, lambda z: logits.view_as(z), choose, logits.shape[-1])
        with torch.no_grad(), top_k_set(self.report.found.parts, ids.shape[1]), mode:
            returned = classify(self._calls.module.forward(*args, **kwargs))
        if returned.ids is None or returned.weights is None:
            raise ProbeError(f"the router of layer {self.report.layer} does not hand out weights of other experts")
        order = returned.ids.argsort(-1)
        back = torch.empty_like(returned.weights).scatter_(1, ids.argsort(-1), returned.weights.gather(1, order))
        return back

    def _run_expert(self, hidden: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Outputs [T, n, H] of the experts ids [T, n] for the tokens hidden [T, H], before weighting."""
        assert self._call is not None
        call = self._call._replace(hidden=hidden, ids=ids, weights=ids.new_ones(ids.shape, dtype=hidden.dtype))
        before, self._aside = self._aside, True
        try:
            with torch.no_grad():
                pieces = run_expanded(self.report.found.parts.experts, call, self.report.padded, MAX_BYTES)
                return torch.cat([outputs for _, outputs in pieces])
        finally:
            self._aside = before

    def _before_experts(self, module: Any, args: Any, kwargs: Any) -> Any:
        if not self._live:
            return None
        call = self._call = read_call(args, kwargs)
        ids, weights = call.ids, call.weights
        for edit in self._now["assign"]:
            assert edit.declared.assign is not None
            edit.site.logits, edit.site.hidden = self._logits, call.rows
            edited = edit.declared.assign(edit.site, edit.options, ids, weights)
            ids, weights = self._assigned(edit, edited, (ids, weights))
        if ids is call.ids and weights is call.weights:
            return None
        if self.report.padded and ids.shape[1] == 1:  # a container that takes no single slot gets an empty second one
            ids, weights = _widened(ids, weights, 2)
        self._call = call._replace(ids=ids.to(call.ids.dtype), weights=weights.to(call.weights.dtype))
        return call.inputs(call.hidden, self._call.ids, self._call.weights)

    def _assigned(self, edit: Edit, edited: Any, before: Any) -> Any:
        rows = self._rows(edit, len(before[0]))
        if rows is None:
            return edited
        slots = max(edited[0].shape[1], before[0].shape[1])
        ids, weights = _widened(edited[0], edited[1], slots)
        old_ids, old_weights = _widened(before[0], before[1], slots)
        return torch.where(rows[:, None], ids, old_ids), torch.where(rows[:, None], weights, old_weights)

    # Outputs

    def _inside(self, module: Any, outputs: torch.Tensor) -> torch.Tensor | None:
        edits = self._now.get("outputs") if self._live and not self._aside else None
        if not edits or self._call is None:
            return None
        ids = self._call.ids
        order = slot_order(module, ids)
        slots = torch.arange(ids.numel(), device=ids.device) if order is None else order
        return self._edit_outputs(edits, outputs, ids.reshape(-1)[slots], slots // ids.shape[1])

    def _again(self, module: Any, args: Any, kwargs: Any, output: torch.Tensor) -> torch.Tensor | None:
        """Where nothing can be put inside the experts: their outputs once more, edited, weighted and summed."""
        edits = self._now.get("outputs") if self._live else None
        if not edits or self._call is None:
            return None
        call = self._call
        outputs = self._run_expert(call.rows, call.ids)
        rows = torch.arange(len(call.ids), device=call.ids.device).repeat_interleave(call.ids.shape[1])
        edited = self._edit_outputs(edits, outputs.flatten(0, 1), call.ids.reshape(-1), rows)
        change = combined(edited.view_as(outputs), call) - combined(outputs, call)
        return output + change.view_as(output)

    def _edit_outputs(self, edits: list[Edit], outputs: Any, experts: Any, rows: Any) -> torch.Tensor:
        for edit in edits:
            assert edit.declared.outputs is not None
            assert self._call is not None
            edit.site.hidden, edit.site.slot_rows = self._call.rows, rows
            edited = edit.declared.outputs(edit.site, edit.options, outputs, experts)
            chosen = self._rows(edit, len(self._call.ids))
            outputs = edited if chosen is None else torch.where(chosen[rows][:, None], edited, outputs)
        return outputs


def _refuse_mixed(now: dict[str, list[Edit]]) -> None:
    """What acts on a whole pass cannot be limited to the tokens that were read in it, or to those written."""
    for edit in (edit for some in now.values() for edit in some):
        if edit.declared.per_pass and edit.site.spec.scope.phase != "all":
            raise ProbeError(
                f"{edit.declared.name} acts on whole passes, and this one holds tokens that were read and tokens that "
                "were written; leave its phase out, or generate without an assistant and with the cache"
            )


def _by_stage(edits: tuple[Edit, ...], phase: str) -> dict[str, list[Edit]]:
    active = [edit for edit in edits if phase == MIXED or edit.at(phase)]
    return {stage: [edit for edit in active if getattr(edit.declared, stage) is not None] for stage in STAGES}


def _widened(ids: torch.Tensor, weights: torch.Tensor, slots: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The same choice with `slots` slots: the added ones name the last expert with weight 0."""
    missing = slots - ids.shape[1]
    if not missing:
        return ids, weights
    return (
        torch.cat([ids, ids[:, -1:].expand(-1, missing)], 1),
        torch.cat([weights, weights.new_zeros(len(weights), missing)], 1),
    )


__all__ = ["Engine", "LayerEdits"]
