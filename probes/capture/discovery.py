"""Where the routers of a model are, by structure: never by class or config names, which differ for every family.

A module with a child `experts` and a child `gate` or `router` is a MoE block; a few families look different and say
so in their own file (`Layout.find`). Vision and audio towers are no language model and are skipped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from probes.capture.within import language_model
from probes.errors import ProbeError
from probes.families import Family, family_of, layouts
from probes.families.adapted import bare, unused_copies
from probes.families.layout import Layout, Parts
from probes.families.parameters import gating_parameters, num_experts_of, top_k_of

TOWERS = re.compile(r"^(visual|vision|audio|speech|image)(_(tower|model|encoder|backbone|transformer))?$|_tower$")
SIDE_STREAMS = ("encoder", "talker", "mtp", "vision", "attention")


@dataclass(frozen=True)
class MoELayer:
    """One router of a model, with the modules to hook.

    layer       number within a run: the model's own index in the main stream, further on in the others
    module      dotted name of the router
    family      its family record, None for an architecture we do not know
    parameters  what its gating depends on, JSON-able (`gating_parameters`)
    shared      the module of the shared expert (families with several of them make one wide one), None without one
    """

    layer: int
    index: int
    stream: str
    module: str
    parts: Parts
    layout: Layout
    family: Family | None
    num_experts: int
    top_k: int
    parameters: dict[str, Any]
    shared: Any = None

    @property
    def shared_experts(self) -> int:
        """How many modules every token of this layer passes through beside the chosen experts: none or one."""
        return int(self.shared is not None)


def discover(model: Any) -> list[MoELayer]:
    """The routed layers of `model`, main stream first, by layer; an empty list for a dense model.

    Of a wrapper, those of the model inside, under the names they have there. ProbeError where two models are inside.
    """
    model = language_model(model)
    found = [_describe(model, name, parts, layout) for name, parts, layout in places(model)]
    return _one_model(_number(found, model), model)


def _one_model(layers: list[MoELayer], model: Any) -> list[MoELayer]:
    """A policy and its reference model in one wrapper would give every layer twice."""
    for first, second in pairwise(layers):
        if first.layer == second.layer:
            raise ProbeError(
                f"{type(model).__name__} has two routers in layer {first.layer} ({first.module} and {second.module}); "
                "give the one model that is meant"
            )
    return layers


def places(model: Any) -> Iterator[tuple[str, Parts, Layout]]:
    """(dotted name, parts, layout) of every MoE block of a torch module."""
    taken: list[str] = []
    for name, module in model.named_modules():
        if any(f"{name}.".startswith(prefix) for prefix in taken) or _in_tower(name):
            continue
        taken += _unused(name, module)
        for layout in layouts():
            parts = list(layout.find(module))
            if parts:
                taken.append(f"{name}.") if layout.closed else None
                yield from ((name, part, layout) for part in parts)
                break


def _unused(name: str, module: Any) -> list[str]:
    """Prefixes of the copies of a module that do not run: what an adapter keeps beside the one it trained."""
    unused = {id(copy) for copy in unused_copies(module)}
    if not unused:
        return []
    inside = [inner for inner, copy in module.named_modules() if id(copy) in unused]
    return [f"{name}.{inner}." if name else f"{inner}." for inner in inside]


def _in_tower(name: str) -> bool:
    return any(TOWERS.search(word) for word in name.split("."))


def _describe(model: Any, name: str, parts: Parts, layout: Layout) -> MoELayer:
    family = family_of(bare(parts.router))
    router = next((n for n, m in parts.block.named_modules() if m is parts.router), "")
    words = [name, parts.path, router]
    return MoELayer(
        layer=0,
        index=_index(name),
        stream=parts.stream or _stream(name),
        module=".".join(w for w in words if w),
        parts=parts,
        layout=layout,
        family=family,
        num_experts=num_experts_of(parts),
        top_k=top_k_of(parts),
        parameters=gating_parameters(parts, family),
        shared=_shared(model, name, parts.block),
    )


def _index(name: str) -> int:
    return next((int(word) for word in name.split(".") if word.isdigit()), 0)


def _stream(name: str) -> str:
    return next((s for s in SIDE_STREAMS if s in name.split(".")), "mlp")


def _shared(model: Any, name: str, block: Any) -> Any:
    """The child named shared… of the block, or beside it in the decoder layer (granitemoeshared)."""
    around = model.get_submodule(name.rpartition(".")[0]) if name else model
    children = (child for module in (block, around) for child in module.named_children())
    return next((m for n, m in children if n.startswith("shared") and _returns_vectors(n, m)), None)


def _returns_vectors(name: str, module: Any) -> bool:
    """Not the gate that some families weight the shared expert with, and not an embedding."""
    return not name.endswith("gate") and type(module).__name__ != "Embedding"


def _number(layers: list[MoELayer], model: Any) -> list[MoELayer]:
    """The main stream keeps the model's own layer numbers; each further stream goes on after the last layer."""
    depth = _depth(layers, model)
    streams = sorted({m.stream for m in layers}, key=lambda s: (s != "mlp", s))
    numbered = [replace(m, layer=m.index + depth * streams.index(m.stream)) for m in layers]
    return sorted(numbered, key=lambda m: m.layer)


def _depth(layers: list[MoELayer], model: Any) -> int:
    """How many layers the deepest stack holding routers has, dense ones included."""
    deepest = 0
    for found in layers:
        words = found.module.split(".")
        at = next((i for i, word in enumerate(words) if word.isdigit()), None)
        if at is not None:
            deepest = max(deepest, len(model.get_submodule(".".join(words[:at]))))
    return deepest
