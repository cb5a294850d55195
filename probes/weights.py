"""The weights of a model's routers and experts, layer by layer, as metrics compare them."""

from __future__ import annotations

from typing import Any

import numpy as np

from probes.errors import ProbeError

SINGLE = (("gate_proj", "up_proj", "down_proj"), ("w1", "w3", "w2"))


class LayerWeights:
    """Weights of the layers asked for, read one layer at a time: `weights[i]`. `what`: "router" or "experts".

    router   [E, H] rows of the router's weight
    experts  [E, N, 3H] per expert and neuron its row of gate and of up, and its column of down
    """

    def __init__(self, found: list[Any], what: str) -> None:
        self.found, self.what = found, what
        self.shape = (len(found),)

    def __getitem__(self, i: int) -> np.ndarray:
        layer = self.found[i]
        value = router_rows(layer) if self.what == "router" else neurons(layer)
        if value is None:
            raise ProbeError(f"layer {layer.layer}: its {self.what} weights have a layout that cannot be compared yet")
        return value


def open_weights(model: str, layers: list[int]) -> dict[str, LayerWeights]:
    """router_weight and expert_weight of these layers of a model (a folder or hub name). Raises ProbeError."""
    from probes.capture import discover
    from probes.model import load_model

    loaded, _ = load_model(model)
    found = {layer.layer: layer for layer in discover(loaded)}
    missing = [layer for layer in layers if layer not in found]
    if missing:
        raise ProbeError(f"--model {model} has no routed layer {missing[0]}, which the trace has")
    chosen = [found[layer] for layer in layers]
    return {"router_weight": LayerWeights(chosen, "router"), "expert_weight": LayerWeights(chosen, "experts")}


def router_rows(layer: Any) -> np.ndarray | None:
    """[E, H], or None where the router is no single matrix."""
    router = _without_adapter(layer.parts.router, f"the router of layer {layer.layer}")
    for name in ("weight", "classifier.weight", "linear.weight", "proj.weight"):
        value = _tensor(router, name)
        if value is not None and value.ndim == 2:
            return value
    return None


def neurons(layer: Any) -> np.ndarray | None:
    """[E, N, 3H], from one packed tensor per matrix or from a module per expert; None for other layouts."""
    experts = _without_adapter(layer.parts.experts, f"the experts of layer {layer.layer}")
    both, down = _tensor(experts, "gate_up_proj"), _tensor(experts, "down_proj")
    if both is not None and down is not None:
        return _packed(both, down, experts)
    each = [_single(module) for module in experts.children()] if experts is not None else []
    return np.stack([e for e in each if e is not None]) if each and all(e is not None for e in each) else None


def _without_adapter(module: Any, what: str) -> Any:
    """What holds the weights. ProbeError where an adapter around it adds to them, also further inside."""
    from probes.families.adapted import bare, has_adapter

    inside = list(module.modules()) if module is not None else []
    if any(has_adapter(one) for one in inside):
        raise ProbeError(f"an adapter is around {what}; merge it into the weights first (merge_and_unload)")
    return bare(module)


def _packed(both: np.ndarray, down: np.ndarray, experts: Any) -> np.ndarray | None:
    if getattr(experts, "is_transposed", False) or both.ndim != 3 or both.shape[1] != 2 * down.shape[2]:
        return None
    gate, up = np.split(both, 2, axis=1)
    return np.concatenate([gate, up, down.transpose(0, 2, 1)], axis=2)


def _single(module: Any) -> np.ndarray | None:
    for names in SINGLE:
        gate, up, down = (_tensor(module, f"{name}.weight") for name in names)
        if gate is not None and up is not None and down is not None:
            return np.concatenate([gate, up, down.T], axis=1)
    return None


def _tensor(module: Any, name: str) -> np.ndarray | None:
    from probes.families.parameters import materialised

    value = materialised(module, name)
    return None if value is None else value.detach().float().cpu().numpy()
