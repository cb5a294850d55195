"""Gating parameters: the numbers a choice depends on besides the logits, read from the router module itself.

Reading them at attach, and not from a config, makes the recomputed choice right on real checkpoints whatever their
config calls things. The result is a plain dict that goes into the provenance of a run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from probes.families.adapted import bare
from probes.families.layout import Parts

if TYPE_CHECKING:
    from probes.families.base import Family

# parameter -> attributes it may be called, on the router; a scaling found on the block is applied after the experts
# and therefore no part of the weights they receive.
ON_ROUTER = {
    "top_k": ("top_k", "topk", "moe_topk", "config.top_k_experts"),
    "normalise": ("norm_topk_prob",),
    "normalise_eps": ("norm_topk_prob_eps",),
    "scaling": ("routed_scaling_factor", "route_scale", "router_scaling_factor"),
    "groups": ("num_group", "n_group"),
    "topk_group": ("topk_group",),
    "method": ("topk_method",),
    "weigh": ("expert_selection_fn",),
    "minimum": ("norm_min",),
    "jitter": ("router_jitter_noise",),
    "capacity": ("expert_capacity",),
}
ON_BLOCK = {"top_k": ("top_k",), "norm_p": ("moe_normalize_expert_weights",)}
VECTORS = {
    "bias": ("e_score_correction_bias", "expert_bias", "balancing_biases", "moe_statics.e_score_correction_bias"),
    "expert_scale": ("per_expert_scale",),
    "global_scale": ("global_scale",),
}


def gating_parameters(parts: Parts, family: Family | None) -> dict[str, Any]:
    """What the rule of this layer needs, JSON-able. Attributes of the modules override the family's own settings."""
    parameters: dict[str, Any] = {}
    parts = inside(parts)
    if family is not None:
        rule = family.variant(parts.router) or family.rule
        parameters |= {"rule": rule.name, **rule.defaults, **family.gating}
    for where, names in ((parts.block, ON_BLOCK), (parts.router, ON_ROUTER)):
        for key, attributes in names.items():
            parameters |= _first(where, key, attributes)
    parameters |= _score(parts.router)
    for key, attributes in VECTORS.items():
        for where in (parts.block, parts.router):
            parameters |= _vector(where, key, attributes)
    return parameters


def inside(parts: Parts) -> Parts:
    """The same modules without the adapters around them, which have none of their attributes."""
    return replace(parts, router=bare(parts.router), experts=bare(parts.experts), block=bare(parts.block))


def scoring_of(parameters: dict[str, Any]) -> str | None:
    """How a layer makes scores of its logits: softmax, sigmoid or sqrtsoftplus; None where its rule is not known."""
    return parameters.get("score", "softmax") if "rule" in parameters else None


def _first(module: Any, key: str, attributes: tuple[str, ...]) -> dict[str, Any]:
    for attribute in attributes:
        value = _get(module, attribute)
        if isinstance(value, (bool, int, float, str)):
            return {key: value}
    return {}


def _score(router: Any) -> dict[str, Any]:
    """The scoring function of routers that take it from their config, as an activation module."""
    name = type(getattr(router, "score_fn", None)).__name__.lower()
    return next(({"score": s} for s in ("sqrtsoftplus", "sigmoid", "softmax") if s in name), {})


def _vector(module: Any, key: str, attributes: tuple[str, ...]) -> dict[str, Any]:
    """Values and dtype: which dtype a bias has decides how the scores are rounded when it is added."""
    for attribute in attributes:
        value = materialised(module, attribute)
        if value is not None:
            return {key: {"values": value.detach().float().flatten().tolist(), "dtype": str(value.dtype)[6:]}}
    return {}


def _get(module: Any, attribute: str) -> Any:
    for word in attribute.split("."):
        module = getattr(module, word, None)
    return module


def materialised(module: Any, attribute: str) -> Any:
    """The tensor called `attribute`; its real values also where accelerate keeps them off the module (on "meta")."""
    *path, name = attribute.split(".")
    owner = _get(module, ".".join(path)) if path else module
    value = getattr(owner, name, None)
    if value is None or not hasattr(value, "is_floating_point"):
        return None
    if value.device.type != "meta":
        return value
    weights = getattr(getattr(owner, "_hf_hook", None), "weights_map", None)
    try:
        return weights[name] if weights is not None else None
    except KeyError:
        return None


@contextmanager
def top_k_set(parts: Parts, top_k: int) -> Iterator[None]:
    """The number of experts per token that the modules of a layer go by, for a while."""
    parts = inside(parts)
    places = [(parts.router, name) for name in ON_ROUTER["top_k"]] + [(parts.block, name) for name in ON_BLOCK["top_k"]]
    owners = [(_get(where, ".".join(name.split(".")[:-1])) if "." in name else where, name) for where, name in places]
    found = [(owner, name.split(".")[-1]) for owner, name in owners if owner is not None]
    before = [
        (owner, name, getattr(owner, name)) for owner, name in found if isinstance(getattr(owner, name, None), int)
    ]
    try:
        for owner, name, _ in before:
            setattr(owner, name, top_k)
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


def num_experts_of(parts: Parts) -> int:
    """Experts that can be chosen, as far as the modules say; the logits' last axis has the last word."""
    parts = inside(parts)
    for module in (parts.router, parts.experts, parts.block):
        for name in ("n_routed_experts", "num_experts", "n_experts"):
            value = getattr(module, name, None)
            if isinstance(value, int):
                return value
    return len(list(parts.experts.children())) if parts.experts is not None else 0


def top_k_of(parts: Parts) -> int:
    """Experts per token, as far as the modules say; the ids' last axis has the last word."""
    parts = inside(parts)
    for module, names in ((parts.router, ON_ROUTER["top_k"]), (parts.block, ON_BLOCK["top_k"])):
        found = _first(module, "k", names)
        if found:
            return int(found["k"])
    return 0
