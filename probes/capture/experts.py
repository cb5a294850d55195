"""Every chosen expert's own output, before weighting, out of fused experts: slot expansion.

`experts(hidden [T, H], ids [T, k], weights [T, k])` returns only the weighted sum. Called instead with each chosen
expert as a row of its own, `experts(hidden repeated k times, ids [T*k, 1], ones)`, it returns the k outputs; weighting
and summing them gives the same result. This needs no knowledge of weight layouts, biases, clamps or transposition:
the model's own code runs on as many GEMM rows as before.

With `grouped_mm` and `batched_mm` the reduction is "weight, reshape, sum", so the replaced call ("rewrite") is
bit-identical. With an eager loop it sums in another order; there the original call stands and the expanded one runs a
second time ("observe").

Where transformers has a place between the experts' last product and the weighting (5.20 and newer, for a norm some
families have there), the outputs are looked at in passing ("inside") and nothing is expanded: that spares four copies
of [T, k, H] per layer. The self-test decides, per layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from probes.capture.tap import INSIDE, REWRITE, Tap, in_place, norm
from probes.families.adapted import bare
from probes.families.layout import Parts, Point

# transformers' implementations that reduce by "weight, reshape, sum", as `combined` does.
SAME_SUM = ("grouped_mm", "batched_mm")


class Call(NamedTuple):
    """A call of an experts container, and how to write it down again with other values."""

    hidden: torch.Tensor  # [..., H]
    ids: torch.Tensor  # [T, k]
    weights: torch.Tensor  # [T, k]
    swapped: bool  # weights came before ids
    keys: tuple[str, ...]  # arguments given by name, the last ones
    rest: tuple[Any, ...]  # what else was given

    @property
    def rows(self) -> torch.Tensor:
        return self.hidden.reshape(-1, self.hidden.shape[-1])

    def inputs(self, hidden: Any, ids: Any, weights: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """(args, kwargs) of the same call with these values."""
        values = (hidden, *((weights, ids) if self.swapped else (ids, weights)), *self.rest)
        cut = len(values) - len(self.keys)
        return values[:cut], dict(zip(self.keys, values[cut:], strict=True))


def read_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    """Which argument is what: the hidden states come first, ids are the integers."""
    if len(args) == 3 and not kwargs and not args[1].is_floating_point():
        return Call(*args, False, (), ())  # the usual call
    hidden, second, third, *rest = (*args, *kwargs.values())
    if second.is_floating_point():
        return Call(hidden, third, second, True, tuple(kwargs), tuple(rest))
    return Call(hidden, second, third, False, tuple(kwargs), tuple(rest))


def expanded(call: Call, padded: bool = False, rows: slice = slice(None)) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The call with every chosen expert of `rows` as a row of its own, with weight 1."""
    ids = call.ids[rows]
    hidden = call.rows[rows].repeat_interleave(ids.shape[1], dim=0)
    ids, weights = ids.reshape(-1, 1), call.weights.new_ones(ids.numel(), 1)
    if padded:
        ids, weights = ids.repeat(1, 2), torch.cat([weights, torch.zeros_like(weights)], dim=1)
    return call.inputs(hidden, ids, weights)


def combined(outputs: torch.Tensor, call: Call) -> torch.Tensor:
    """Weighted sum of outputs [T, k, H]: the very operations of transformers' grouped and batched implementations."""
    total = (outputs * call.weights.unsqueeze(-1)).sum(dim=1).to(call.hidden.dtype)
    return total.reshape(*call.hidden.shape[:-1], total.shape[-1])


def expert_points(parts: Parts, tap: Tap) -> list[Point]:
    """Hooks on the experts container for the ids and weights, and for the outputs when they are wanted."""
    if tap.examine:
        return _examine(parts, tap)
    if not tap.want.every_norm:
        return _chosen(parts, tap)
    before, after = _every(tap)
    # Its look at the call comes before the one that may expand it.
    return [Point(parts.experts, "before", before), *_chosen(parts, tap), Point(parts.experts, "after", after)]


def _chosen(parts: Parts, tap: Tap) -> list[Point]:
    if not tap.want.slots:
        return [Point(parts.experts, "after", _watch(tap))]
    if tap.mode == INSIDE:
        return _inside(parts, tap)
    if tap.mode == REWRITE:
        return _rewrite(parts, tap)
    return [Point(parts.experts, "after", _observe(tap))]


def _watch(tap: Tap) -> Callable[..., None]:
    # After the call rather than before it: then its arguments are what the experts received, whoever edited them.
    def after(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        if tap.live:
            call = read_call(args, kwargs)
            tap.keep_choice(call.ids, call.weights)

    return after


def implementation(experts: Any) -> str:
    """The implementation a call would use now (generation switches it between prefill and decoding on CUDA)."""
    return getattr(getattr(bare(experts), "config", None), "_experts_implementation", None) or ""


def has_inside(experts: Any) -> bool:
    """Is there a place between the last product and the weighting, that a call would pass now?"""
    return hasattr(bare(experts), "has_post_expert_norm") and implementation(experts) in SAME_SUM


def slot_order(experts: Any, ids: torch.Tensor, late: bool = False) -> torch.Tensor | None:
    """Which slot each row inside the experts is; None if they stand in order.

    `grouped_mm` sorts the slots by expert: the same sort of the same ids gives the same order. For a single token the
    ids will do (`late`).
    """
    if implementation(experts) != "grouped_mm":
        return None
    flat = ids.reshape(-1)
    return flat if late and len(ids) == 1 else flat.sort().indices


def _inside(parts: Parts, tap: Tap) -> list[Point]:
    seen: list[torch.Tensor] = []
    observe = _observe(tap)

    def inside(module: Any, outputs: torch.Tensor) -> None:
        if tap.live:
            seen[:] = [outputs]

    def after(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        if not tap.live:
            return
        call = read_call(args, kwargs)
        outputs = seen.pop() if seen else None
        if outputs is None or len(outputs) != call.ids.numel() or implementation(module) not in SAME_SUM:
            observe(module, args, kwargs, output)
            seen.clear()
            return
        tap.keep_choice(call.ids, call.weights)
        tap.keep_sorted(outputs, slot_order(module, call.ids, tap.waits(outputs)), call.rows, call.ids)

    return [Point(bare(parts.experts), "inside", inside), Point(parts.experts, "after", after)]


def _rewrite(parts: Parts, tap: Tap) -> list[Point]:
    pending: list[Call] = []

    def before(module: Any, args: Any, kwargs: Any) -> Any:
        pending.clear()
        call = read_call(args, kwargs)
        if not tap.live or len(pieces(call, tap.max_bytes)) > 1:
            return None
        pending.append(call)
        return expanded(call, tap.padded)

    observe = _observe(tap)

    def after(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        if not pending:
            return observe(module, args, kwargs, output)
        call = pending.pop()
        outputs = output.view(*call.ids.shape, output.shape[-1])
        _keep(tap, call, outputs)
        return combined(outputs, call)

    return [Point(parts.experts, "before", before), Point(parts.experts, "after", after)]


def _keep(tap: Tap, call: Call, outputs: torch.Tensor) -> None:
    tap.keep_choice(call.ids, call.weights)
    tap.keep_input(call.rows)
    tap.keep_slots(outputs, call.ids)


def _observe(tap: Tap) -> Callable[..., None]:
    def after(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        if not tap.live:
            return
        call = read_call(args, kwargs)
        tap.keep_choice(call.ids, call.weights)
        tap.keep_input(call.rows)
        for start, outputs in run_expanded(module, call, tap.padded, tap.max_bytes):
            tap.keep_slots(outputs, call.ids[start : start + len(outputs)], start)

    return after


def _every(tap: Tap) -> tuple[Callable[..., None], Callable[..., None]]:
    """Norms of what every expert makes of every token: the call once more, with all experts in place of the chosen."""
    calls: list[Call] = []

    def before(module: Any, args: Any, kwargs: Any) -> None:
        calls[:] = [read_call(args, kwargs)] if tap.live else []

    def after(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        if calls:
            with tap.session.paused():
                tap.put("expert_norm", _every_norm(module, calls.pop(), tap))

    return before, after


def _every_norm(module: Any, call: Call, tap: Tap) -> torch.Tensor:
    """[T, E]; 0 for the class that means no expert."""
    count = tap.num_experts if tap.skip_class is None else tap.skip_class
    ids = torch.arange(count, device=call.ids.device, dtype=call.ids.dtype).expand(len(call.ids), -1)
    every = call._replace(ids=ids)
    norms = torch.cat([norm(outputs) for _, outputs in run_expanded(module, every, tap.padded, tap.max_bytes)])
    return torch.nn.functional.pad(norms, (0, tap.num_experts - count))


def _examine(parts: Parts, tap: Tap) -> list[Point]:
    """For the self-test: what the container returned, was seen to weigh, and what expansion makes of the same call."""
    seen: list[torch.Tensor] = []

    def inside(module: Any, outputs: torch.Tensor) -> None:
        seen.append(outputs)

    def after(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        if not tap.live:
            return
        call = read_call(args, kwargs)
        tap.keep_choice(call.ids, call.weights)
        tap.put("container", output)
        tap.put("experts_input", call.hidden)
        if seen and len(seen[0]) == call.ids.numel():
            outputs = in_place(seen[0], slot_order(module, call.ids)).view(*call.ids.shape, -1)
            tap.put("seen_inside", combined(outputs, call))
        for tap.padded in (False, True):
            try:
                outputs = torch.cat([out for _, out in run_expanded(module, call, tap.padded, tap.max_bytes)])
            except Exception as error:  # noqa: BLE001 - whatever a container objects to, it is a finding, not a failure
                tap.trouble = f"{type(error).__name__}: {error}"
                continue
            tap.trouble = ""
            tap.put("combined", combined(outputs, call))
            return

    points = [Point(parts.experts, "after", after)]
    return [Point(bare(parts.experts), "inside", inside), *points] if has_inside(parts.experts) else points


def run_expanded(module: Any, call: Call, padded: bool, max_bytes: int) -> Iterator[tuple[int, torch.Tensor]]:
    """(first row, outputs [t, k, H]) piece by piece, by `forward` so that nobody's hooks see this second run."""
    with torch.no_grad():
        for rows in pieces(call, max_bytes):
            args, kwargs = expanded(call, padded, rows)
            outputs = module.forward(*args, **kwargs)
            yield rows.start, outputs.reshape(*call.ids[rows].shape, outputs.shape[-1])


def pieces(call: Call, max_bytes: int) -> list[slice]:
    """Row ranges whose expanded input stays below `max_bytes`."""
    tokens, top_k = call.ids.shape
    at_once = max(1, max_bytes // max(1, top_k * call.hidden.shape[-1] * call.hidden.element_size()))
    return [slice(start, min(start + at_once, tokens)) for start in range(0, max(tokens, 1), at_once)]
