"""What is trained in a parameter's stead: a copy, some slices, or a low-rank change; the parameter itself stays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from probes.capture.check import self_test
from probes.capture.discovery import MoELayer
from probes.errors import ProbeError, UsageError


class Copy:
    """A float32 copy of a parameter, so that small steps are not lost in 16 bits."""

    def __init__(self, parameter: torch.Tensor) -> None:
        self._like = parameter.detach()
        self.variables = [self._like.float().clone().requires_grad_(True)]

    def value(self) -> torch.Tensor:
        """What stands in for the parameter, in its own dtype."""
        return self.variables[0].to(self._like.dtype)


class Slices(Copy):
    """Float32 copies of some slices [n, ...] of a parameter [E, ...]; the others stay what they are."""

    def __init__(self, parameter: torch.Tensor, indices: tuple[int, ...]) -> None:
        self._like, self._indices = parameter.detach(), torch.tensor(indices, device=parameter.device)
        self.variables = [self._like[self._indices].float().clone().requires_grad_(True)]

    def value(self) -> torch.Tensor:
        """The parameter with those slices replaced."""
        return self._like.index_copy(0, self._indices, self.variables[0].to(self._like.dtype))


class LowRank(Copy):
    """W + (scale / r) · B A, with B zero at first."""

    def __init__(self, parameter: torch.Tensor, rank: int, scale: float, generator: Any) -> None:
        self._like, self._scale = parameter.detach(), scale / rank
        out, inside = parameter.shape
        a = torch.randn(rank, inside, generator=generator) / inside**0.5
        b = torch.zeros(out, rank)
        self.variables = [x.to(parameter.device).requires_grad_(True) for x in (a, b)]

    def value(self) -> torch.Tensor:
        """The parameter with the change added."""
        a, b = self.variables
        return (self._like.float() + self._scale * (b @ a)).to(self._like.dtype)


@dataclass(frozen=True)
class Place:
    """A parameter of one layer: its name in the model, and which slices of it are meant (None: all of it)."""

    layer: int
    name: str
    slices: tuple[int, ...] | None = None


def router_places(model: Any) -> list[Place]:
    """The parameters of the routers. ProbeError where routers hold none."""
    names = _names(model)
    places = []
    for found in _layers(model):
        experts = {id(p) for p in found.parts.experts.parameters()} if found.parts.experts is not None else set()
        own = [p for p in found.parts.router.parameters() if p.is_floating_point() and id(p) not in experts]
        places += [Place(found.layer, names[id(p)]) for p in own]
    if not places:
        raise ProbeError(f"the routers of {type(model).__name__} hold no parameters, so there is nothing to tune")
    return places


def expert_places(model: Any, experts: dict[int, tuple[int, ...]]) -> list[Place]:
    """The parameters of the named experts, layer -> ids. UsageError for experts that are not there."""
    layers = {found.layer: found for found in _layers(model)}
    for layer, ids in experts.items():
        if layer not in layers:
            raise UsageError(f"layer {layer} has no experts; layers that have: {sorted(layers)}")
        if not ids or max(ids) >= layers[layer].num_experts or min(ids) < 0:
            raise UsageError(f"layer {layer} has experts 0 to {layers[layer].num_experts - 1}, not {list(ids)}")
    if not experts:
        raise UsageError("no experts are named, so there is nothing to tune")
    names = _names(model)
    return [place for layer, ids in experts.items() for place in _of_layer(layers[layer], ids, names)]


def _of_layer(found: MoELayer, ids: tuple[int, ...], names: dict[int, str]) -> list[Place]:
    container = found.parts.experts
    children = {name: child for name, child in container.named_children() if name.isdigit()}
    if len(children) == found.num_experts:
        own = [p for i in ids for p in children[str(i)].parameters()]
        return [Place(found.layer, names[id(p)]) for p in own]
    stacked = [p for p in container.parameters() if p.ndim and p.shape[0] == found.num_experts]
    if not stacked or len(stacked) != len(list(container.parameters())):
        raise ProbeError(f"the experts of layer {found.layer} are not stored one by one, so none can be tuned alone")
    return [Place(found.layer, names[id(p)], tuple(ids)) for p in stacked]


def _layers(model: Any) -> list[MoELayer]:
    return [r.found for r in self_test(model).layers if r.choice or r.logits]


def _names(model: Any) -> dict[int, str]:
    return {id(parameter): name for name, parameter in model.named_parameters()}


def trainable(model: Any, places: list[Place], rank: int = 0, scale: float = 32.0, seed: int = 0) -> dict[str, Copy]:
    """name -> what is trained instead of it; matrices of routers by a low-rank change where `rank` is above 0."""
    parameters, generator = dict(model.named_parameters()), torch.Generator().manual_seed(seed)
    made: dict[str, Copy] = {}
    for place in places:
        parameter = parameters[place.name]
        if place.slices is not None:
            made[place.name] = Slices(parameter, place.slices)
        elif rank and parameter.ndim == 2:
            made[place.name] = LowRank(parameter, min(rank, *parameter.shape), scale, generator)
        else:
            made[place.name] = Copy(parameter)
    return made
