"""Core types: where a router sits, what it did, and the run it did it in.

Notation, the same everywhere: T tokens, L MoE layers, E routed experts, k experts chosen per token. Chosen ids stand in
descending weight order. An id of -1 means "no routing here" (padding, a cached prefix, a layer that did not run), or
an empty slot behind a token's last expert. A token that was routed and lost all its experts begins with -2.

An intervention can leave a token fewer experts than the router chooses, or give it more. So the router's own k and the
number of slots of an array are two numbers (`top_k` and `slots`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

NO_EXPERT = -1
PER_SLOT = ("weights", "output_norm", "output_absmax")
LOST = -2  # in the first slot: the router chose, and no expert is left


def was_routed(experts: np.ndarray) -> np.ndarray:
    """Whether a router chose at each position, even if no expert is left: ids [..., k], empty slots last -> bool [...].

    This is what comparing two runs goes by: no expert is a choice as well. Metrics of one run count the positions that
    have an expert.
    """
    return np.asarray(experts)[..., 0] != NO_EXPERT


def packed(experts: np.ndarray, *per_slot: np.ndarray | None) -> tuple[Any, ...]:
    """The same rows with their empty slots last, and the arrays of the same slots in the same order.

    experts [..., k]: ids below 0 are empty slots; a row of them is unrouted, or has LOST in its first slot where it
    has LOST anywhere. Arrays of floats get NaN in empty slots. The order of the chosen experts stays.
    """
    empty = experts < 0
    if not empty.any():
        return (experts, *per_slot)
    gone = empty.all(axis=-1) & (experts == LOST).any(axis=-1)
    order = np.argsort(empty, axis=-1, kind="stable")
    ids = np.take_along_axis(np.where(empty, NO_EXPERT, experts), order, axis=-1)
    ids[..., 0][gone] = LOST
    return ids, *(None if values is None else _moved(values, order, ids < 0) for values in per_slot)


def _moved(values: np.ndarray, order: np.ndarray, empty: np.ndarray) -> np.ndarray:
    more = (1,) * (values.ndim - order.ndim)
    moved = np.take_along_axis(values, order.reshape(*order.shape, *more), axis=order.ndim - 1)
    return np.where(empty.reshape(*empty.shape, *more), np.array(np.nan, values.dtype), moved)


@dataclass(frozen=True, slots=True)
class Router:
    """One router of a model.

    `layer` is the model's own layer index (dense layers keep their numbers). `num_experts` is the number of routed
    experts that can be chosen, `top_k` how many are. `stream` tells apart routers that share a layer ("mlp" is the
    usual one; JetMoE also routes its "attention", encoder-decoders have an "encoder"); streams other than the main
    one get layer numbers after the model's last layer, so that `layer` alone identifies a router within a run.
    """

    layer: int
    module: str
    num_experts: int
    top_k: int
    gating: str = ""
    shared_experts: int = 0
    stream: str = "mlp"


@dataclass(frozen=True, slots=True)
class Routing:
    """What one router did in one forward pass. Arrays are NumPy or torch, one row per token.

    experts       [T, k] int    chosen ids, descending weight, as the experts container received them
    weights       [T, k] float  weights really used (after normalisation and scaling); they need not sum to 1
    logits        [T, E] float  pre-softmax logits in the precision the model produced
    output_norm   [T, k] float  L2 norm of each chosen expert's output before weighting
    output_absmax [T, k] float  largest absolute component of that output
    input_absmax  [T]    float  largest absolute component of the experts' input
    outputs       [T, k, H] float  the output vectors themselves (only where asked for)
    """

    experts: Any
    weights: Any
    logits: Any = None
    output_norm: Any = None
    output_absmax: Any = None
    input_absmax: Any = None
    outputs: Any = None


@dataclass(frozen=True)
class RoutingArrays:
    """Recorded routing of whole sequences, as metrics take it: NumPy arrays over tokens and layers.

    experts       [T, L, slots] int    -1 where there is no routing, and in empty slots, which come last; -2 in the
                  first slot of a token that lost all its experts
    sequence_id   [T] int          tokens of a sequence are contiguous and in order
    layers        [L] int          the model's own layer indices
    num_experts   int              E
    weights, output_norm, output_absmax  [T, L, k] float or None
    logits        [T, L, E] float or None (NaN rows where the logits of a position were not kept)
    input_absmax  [T, L] float or None: largest absolute component of the experts' input
    similarity, hidden_absmax, hidden_absmedian  [T, L] float or None: cosine of the residual stream h before the
                  experts and h plus what they returned; largest and median absolute component of h
    shared_absmax, shared_input_absmax  [T, L] float or None: largest absolute component of what the layer's shared
                  expert returned and received
    expert_norm   [T, L, E] float or None: L2 norm of what every expert makes of the token
    router_input  [T, L, H] float or None: what the router received
    output_count [L, E], output_mean, output_m2 [L, E, H] or None: over the whole run, how many output vectors an expert
                  gave, their mean, and the sum of squared differences from it
    router_weight [L, E, H], expert_weight [L, E, N, W] or None: of the model; one layer at a time is read
    token_id, predicted_id  [T] int or None;  token  [T] str or None
    router_k      int or None: experts the router chooses per token, where that is known
    label         [T] int or None: index into `label_names` (-1 = no label); constant within a sequence
    """

    experts: np.ndarray
    sequence_id: np.ndarray
    layers: np.ndarray
    num_experts: int
    weights: np.ndarray | None = None
    logits: np.ndarray | None = None
    output_norm: np.ndarray | None = None
    output_absmax: np.ndarray | None = None
    input_absmax: np.ndarray | None = None
    similarity: np.ndarray | None = None
    hidden_absmax: np.ndarray | None = None
    hidden_absmedian: np.ndarray | None = None
    shared_absmax: np.ndarray | None = None
    shared_input_absmax: np.ndarray | None = None
    expert_norm: np.ndarray | None = None
    router_input: np.ndarray | None = None
    output_count: np.ndarray | None = None
    output_mean: np.ndarray | None = None
    output_m2: np.ndarray | None = None
    router_weight: Any = None
    expert_weight: Any = None
    token_id: np.ndarray | None = None
    predicted_id: np.ndarray | None = None
    token: np.ndarray | None = None
    label: np.ndarray | None = None
    label_names: tuple[str, ...] = ()
    router_k: int | None = None

    @property
    def slots(self) -> int:
        """The most experts a token can have in these arrays."""
        return int(self.experts.shape[2])

    @property
    def top_k(self) -> int:
        """k, the number of experts the router chooses per token: as given, else the most that any token has."""
        if self.router_k is not None:
            return self.router_k
        return max(1, int((self.experts >= 0).sum(axis=-1).max(initial=1)))
