"""The steps rules are made of: score, limit to groups, choose, normalise and scale. Tensor methods only.

The order and the dtypes are those of the models' own routers, so that a recomputed choice agrees with the one made
also where scores nearly tie.
"""

from __future__ import annotations

from typing import Any

from probes.families.base import Parameters


def scores(logits: Any, parameters: Parameters) -> Any:
    """Scores [T, E] of every expert: softmax, sigmoid or sqrt(softplus) of the logits."""
    import torch

    values = logits.float() if parameters.get("float", True) else logits
    kind = parameters.get("score", "softmax")
    if kind == "softmax":
        return values.softmax(dim=-1)
    if kind == "sigmoid":
        return values.sigmoid()
    if kind == "sqrtsoftplus":
        return torch.nn.functional.softplus(values).sqrt()
    raise ValueError(f"unknown scoring function {kind!r}")


def vector(parameters: Parameters, key: str, like: Any) -> Any:
    """The vector stored under `key` as a tensor of its own dtype, or None."""
    import torch

    stored = parameters.get(key)
    if stored is None:
        return None
    return torch.tensor(stored["values"], dtype=getattr(torch, stored["dtype"]), device=like.device)


def biased(values: Any, parameters: Parameters) -> Any:
    """Scores used for the choice only: the correction bias is added, the weights stay without it."""
    bias = vector(parameters, "bias", values)
    return values if bias is None else values + bias


def limit_to_groups(values: Any, parameters: Parameters) -> Any:
    """Scores outside the `topk_group` best of `groups` equal groups are struck out (DeepSeek-V2, arXiv 2405.04434).

    A group is as good as the sum of its two best experts ("top2") or as its best one ("max").
    """
    groups, keep = parameters.get("groups"), parameters.get("topk_group")
    if not groups or not keep or groups <= 1:
        return values
    grouped = values.view(len(values), groups, -1)
    if parameters.get("group_score", "top2") == "max":
        worth = grouped.amax(-1)
    else:
        worth = grouped.topk(2, dim=-1).values.sum(-1)
    best = worth.topk(keep, dim=-1).indices
    out = worth.new_ones(worth.shape, dtype=bool).scatter_(1, best, False)
    return grouped.masked_fill(out[..., None], parameters.get("struck_out", float("-inf"))).view_as(values)


def finished(weights: Any, parameters: Parameters) -> Any:
    """Chosen weights [T, k], normalised if the family does, and scaled."""
    if parameters.get("normalise"):
        total = weights.sum(dim=-1, keepdim=True) + parameters.get("normalise_eps", 0.0)
        weights = weights / total.clamp(min=parameters.get("minimum", 0.0))
    return weights * parameters.get("scaling", 1.0)
