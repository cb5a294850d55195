"""A router's own code, run on edited numbers: its normalisation, groups, bias and scaling still apply.

Which of the calls inside a router makes the logits, and which `topk` makes the choice, is learned per model by watching
one pass over a few dummy tokens: the call whose result is the logits, and the one whose indices are the ids that the
experts received. That needs no code per family, and what is not found is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch.overrides import TorchFunctionMode

from probes.capture.check import Report, dummy_inputs
from probes.capture.discovery import MoELayer
from probes.capture.hooks import Hooks
from probes.capture.recorder import capture
from probes.capture.stage import aside
from probes.capture.want import Want
from probes.capture.within import language_model
from probes.families.layout import Point

_LEARNED: WeakKeyDictionary[Any, tuple[Report, dict[int, Calls]]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Call:
    """The n-th call of a torch function while a module runs; of its result, the columns from `start` on."""

    name: str
    nth: int
    start: int = 0


@dataclass(frozen=True)
class Calls:
    """Where in `module` the logits and the choice are made; None for what was not found."""

    module: Any
    logits: Call | None = None
    topk: Call | None = None


class Watch(TorchFunctionMode):
    """Keeps the results of all calls."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.seen: list[tuple[Call, Any]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = name_of(func)
        self.counts[name] += 1
        kept = result[1] if name == "topk" else result
        if isinstance(kept, torch.Tensor) and kept.ndim > 1:
            self.seen.append((Call(name, self.counts[name]), kept.detach().clone()))
        return result


class Rerun(TorchFunctionMode):
    """Runs a module's code with its logits and its choice edited.

    edit    logits, shaped as the router has them -> logits
    choose  (scores, k) -> ids; the values of these ids are read from the scores as they are
    width   E, how many of the columns are the logits'
    """

    def __init__(
        self, calls: Calls, edit: Callable[[Any], Any], choose: Callable[[Any, int], Any] | None, width: int
    ) -> None:
        super().__init__()
        self._edit, self._choose, self._width = edit, choose, width
        self._logits, self._topk = calls.logits, calls.topk if choose is not None else None
        self._n_logits = self._n_topk = 0

    def restart(self) -> Rerun:
        """For the next run of the module."""
        self._n_logits = self._n_topk = 0
        return self

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__
        if self._topk is not None and name == "topk":
            self._n_topk += 1
            if self._n_topk == self._topk.nth:
                return self._chosen(*args, **(kwargs or {}))
        result = func(*args, **(kwargs or {}))
        if self._logits is not None and name == self._logits.name:
            self._n_logits += 1
            if self._n_logits == self._logits.nth:
                return self._edited(result)
        return result

    def _edited(self, result: Any) -> Any:
        start, width = self._logits.start if self._logits else 0, self._width
        if result.shape[-1] == width:
            return self._edit(result)
        parts = [result[..., :start], self._edit(result[..., start : start + width]), result[..., start + width :]]
        return torch.cat(parts, dim=-1)

    def _chosen(self, scores: Any, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
        assert self._choose is not None
        ids = self._choose(scores, k)
        return torch.return_types.topk((scores.gather(-1, ids), ids))


def name_of(func: Any) -> str:
    return getattr(func, "__name__", "")


def learn(model: Any, report: Report) -> dict[int, Calls]:
    """layer -> where its router makes logits and choice. Remembered as long as the self-test's report is."""
    model = language_model(model)
    known = _LEARNED.get(model)
    if known is not None and known[0] is report:
        return known[1]
    layers = [r.found for r in report.layers if r.choice or r.logits]
    learned = _watch(model, layers, lambda found: found.parts.router)
    # A router that returns only logits leaves the choice to its block (DBRX).
    rest = [found for found in layers if learned[found.layer].topk is None and found.parts.block is not None]
    learned |= _better(learned, _watch(model, rest, lambda found: found.parts.block) if rest else {})
    _LEARNED[model] = (report, learned)
    return learned


def _better(first: dict[int, Calls], second: dict[int, Calls]) -> dict[int, Calls]:
    return {layer: calls for layer, calls in second.items() if calls.topk is not None and first[layer].topk is None}


def _watch(model: Any, layers: list[MoELayer], module_of: Callable[[MoELayer], Any]) -> dict[int, Calls]:
    watches: dict[int, list[Watch]] = {found.layer: [] for found in layers}
    points = [Point(module_of(found), "around", _watching(watches[found.layer])) for found in layers]
    want = Want(norms=False, layers=tuple(watches))
    with aside(model), capture(model, want) as recorder, Hooks(points), torch.no_grad():
        model(**dummy_inputs(model))
    routing = {layer: r for forward in recorder.take() for layer, r in forward.routing.items()}
    return {found.layer: _found(module_of(found), watches[found.layer], routing.get(found.layer)) for found in layers}


def _watching(watches: list[Watch]) -> Callable[[], Watch]:
    def enter() -> Watch:
        watches.append(Watch())
        return watches[-1]

    return enter


def _found(module: Any, watches: list[Watch], routing: Any) -> Calls:
    if not watches or routing is None:
        return Calls(module)
    seen = watches[-1].seen
    return Calls(module, _logits_call(seen, routing.logits), _topk_call(seen, routing.experts))


def _logits_call(seen: list[tuple[Call, Any]], logits: Any) -> Call | None:
    from probes.families.base import as_tensor

    if logits is None:
        return None
    wanted = as_tensor(logits).float()
    wanted = wanted[~wanted.isnan().any(-1)]  # tokens that went to another router
    for call, result in seen:
        flat = result.reshape(-1, result.shape[-1])
        if not result.is_floating_point() or len(flat) != len(wanted) or flat.shape[1] < wanted.shape[1]:
            continue
        # Some routers score shared experts in the same call, before or after the routed ones.
        for start in {0, flat.shape[1] - wanted.shape[1]}:
            part = flat[:, start : start + wanted.shape[1]].float().cpu()
            if torch.equal(part.nan_to_num(), wanted.nan_to_num()):
                return replace(call, start=start)
    return None


def _topk_call(seen: list[tuple[Call, Any]], experts: Any) -> Call | None:
    wanted = torch.from_numpy(experts[(experts >= 0).all(-1)]).sort(-1).values
    for call, result in reversed(seen):
        alike = call.name == "topk" and result.numel() == wanted.numel()
        if alike and torch.equal(result.cpu().reshape(wanted.shape).sort(-1).values, wanted):
            return call
    return None
