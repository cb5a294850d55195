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
    """One hook: before or after `module` runs. What the callback returns, if anything, replaces inputs or output.

    before  callback(module, args, kwargs) -> None or (args, kwargs)
    after   callback(module, args, kwargs, output) -> None or output
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


class Layout:
    """The usual block: child `experts`, child `gate` or `router`."""

    name = "block"
    closed = False  # nothing inside what was found is looked at again

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
        """The logits [T, E] in what the logits' source returned."""
        logits = output[0] if isinstance(output, tuple) else output
        return logits if logits.ndim == 2 else logits.reshape(-1, logits.shape[-1])

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

        def after(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            keep(pick(output))

        return after


GENERIC = Layout()
