"""Where the tensors of routing are in a model: which modules to hook, and what passes through them.

One layout serves most families: a block with a child `experts` and a child `gate` or `router`, whose router returns
the logits first and whose experts are called with (hidden [T, H], ids [T, k], weights [T, k]). The others live beside
the rule of their family. A layout says where to look; `probes.capture` decides what to keep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from probes.capture.tap import Tap

ROUTER_NAMES = ("gate", "router")


class Point(NamedTuple):
    """One hook: before, after (always: also a failed one), inside or around a run of `module`.

    What the callback returns replaces what it got.

    before  callback(module, args, kwargs) -> None or (args, kwargs)
    after   callback(module, args, kwargs, output) -> None or output
    always  the same, also when the module fails: then the output is None
    inside  callback(module, outputs [T*k, H]) -> None or outputs: expert outputs before weighting, for containers that
            have a place for a norm there (transformers 5.20 and newer, `grouped_mm` and `batched_mm`)
    around  callback() -> None or a context manager that is entered for one run of the module
    first   run ahead of the hooks that are already there: what edits inputs must come before what looks at them
    """

    module: Any
    when: str
    callback: Callable[..., Any]
    first: bool = False


@dataclass(frozen=True)
class Parts:
    """The modules of one MoE layer, with the names that lead to them from where they were found."""

    router: Any
    experts: Any
    block: Any
    path: str = ""
    stream: str = ""
    outer: Any = None


class Returned(NamedTuple):
    """What a router returned, told apart by dtype and shape: logits [T, E], ids [T, k], weights [T, k]."""

    logits: Any = None
    ids: Any = None
    weights: Any = None


def classify(output: Any) -> Returned:
    """Integers are ids, a float of their shape weights, a float of another width logits.

    Order does not help: it changed between versions (granitemoe: logits last in transformers 5.18, first in 5.19), and
    some versions return no logits at all (longcat_flash before 5.20).
    """
    if not isinstance(output, tuple):
        return Returned(_flat(output))
    tensors = [_flat(t) for t in output if hasattr(t, "is_floating_point") and t.ndim > 1]
    ids = next((t for t in tensors if not t.is_floating_point()), None)
    floats = [t for t in tensors if t.is_floating_point()]
    if ids is None:
        return Returned(floats[0] if floats else None)
    weights = [t for t in floats if t.shape == ids.shape]
    wider = [t for t in floats if t.shape[-1] > ids.shape[-1]]
    if not wider and len(weights) > 1:  # k = E: both have the same shape, and logits come first
        return Returned(weights[0], ids, weights[1])
    return Returned(wider[0] if wider else None, ids, weights[0] if weights else None)


def _flat(tensor: Any) -> Any:
    return tensor if tensor.ndim == 2 else tensor.reshape(-1, tensor.shape[-1])


class Layout:
    """The usual block: child `experts`, child `gate` or `router`."""

    name = "block"
    reruns = True  # observing expert outputs takes a second run of the experts
    closed = False  # nothing inside what was found is looked at again
    takes_choice = True  # the experts are called with (hidden, ids, weights), so that a choice can be edited there

    def find(self, module: Any) -> Iterator[Parts]:
        """The MoE layers that `module` itself is; nothing when it is none."""
        children = dict(module.named_children())
        router = next((children[n] for n in ROUTER_NAMES if n in children), None)
        if "experts" in children and router is not None:
            yield Parts(router, children["experts"], module)

    def logits_source(self, parts: Parts) -> Any:
        """The module whose output holds the logits."""
        return parts.router

    def logits(self, output: Any) -> Any:
        """The logits [T, E] in what the logits' source returned; None if they are not among it."""
        return classify(output).logits

    def num_experts(self, parts: Parts, logits: Any) -> int:
        """Experts that can be chosen; usually the logits' last axis, whatever the config says."""
        return int(logits.shape[-1])

    def points(self, parts: Parts, tap: Tap) -> list[Point]:
        """The hooks that fill `tap` with what it wants, and not one more."""
        from probes.capture.experts import expert_points

        points = []
        if tap.want.logits:
            points.append(Point(self.logits_source(parts), "after", self.keep_logits(tap)))
        if tap.want.router_inputs:
            points.append(Point(parts.router, "before", tap.keep_router_input))
        return points + expert_points(parts, tap)

    def keep_logits(self, tap: Tap) -> Callable[..., None]:
        pick, keep = self.logits, tap.keep_logits
        place: list[int] = []  # where in the tuple they were: telling it apart costs a twentieth of a decoding step

        def after(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            if place and isinstance(output, tuple):
                keep(output[place[0]])
                return
            logits = pick(output)
            if logits is not None:
                place[:] = _place(logits, output)
                keep(logits)

        return after


def _place(logits: Any, output: Any) -> list[int]:
    """The index of `logits` in a tuple that holds them as they are."""
    return [i for i, value in enumerate(output) if value is logits] if isinstance(output, tuple) else []


GENERIC = Layout()
