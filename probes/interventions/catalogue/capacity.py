"""Capacity: an expert takes only so many tokens of a pass; the others lose their slot, or go elsewhere."""

from __future__ import annotations

import math
from typing import Any

from probes.interventions.base import Intervention, Option, Options, finite
from probes.interventions.ranks import places
from probes.interventions.site import Site

ORDERS = ("score", "first", "last")


def assign(site: Site, options: Options, ids: Any, weights: Any) -> tuple[Any, Any]:
    real = site.real(ids)
    live = real[:, None] & (weights != 0)
    limit = capacity(options["gamma"], ids.shape[1], int(real.sum()), site.num_experts)
    order = _order(site, options["keep"], ids, weights)
    group = ids.long().masked_fill(~live, site.num_experts).reshape(-1)
    over = live & (places(group, order, site.num_experts + 1) >= limit).view_as(ids)
    if not over.any():
        return ids, weights
    if options["mode"] == "drop":
        return ids, weights.masked_fill(over, 0.0)
    return _rerouted(site, ids, weights, live, order, limit)


def capacity(gamma: float, top_k: int, tokens: int, num_experts: int) -> int:
    """C = ⌈γ·k·T/E⌉."""
    return math.ceil(gamma * top_k * tokens / num_experts)


def _order(site: Site, order: str, ids: Any, weights: Any) -> Any:
    """[T·k]: slots in the order in which they are served; within a token the heavier one first."""
    import torch

    if order == "score":
        return site.scores().gather(1, ids.long()).reshape(-1).argsort(descending=True, stable=True)
    tokens = torch.arange(len(ids), device=ids.device)
    tokens = tokens.flip(0) if order == "last" else tokens
    return (tokens[:, None] * ids.shape[1] + weights.argsort(dim=-1, descending=True, stable=True)[tokens]).reshape(-1)


def _rerouted(site: Site, ids: Any, weights: Any, live: Any, order: Any, limit: int) -> tuple[Any, Any]:
    """Slots that find their expert full go to the token's best other one with room, or are dropped."""
    import torch

    logits = site.logits.float().cpu().numpy()
    placed = _place(ids.cpu().numpy(), live.cpu().numpy(), order.cpu().numpy(), logits, limit)
    new = torch.from_numpy(placed).to(ids.device)
    scores = site.scores()
    share = scores.gather(1, new.clamp(min=0)) / scores.gather(1, ids.long())
    moved = (weights * share).to(weights.dtype)
    weights = torch.where(new == ids, weights, moved).masked_fill(new < 0, 0.0)
    return torch.where(new < 0, ids.long(), new), weights


def _place(ids: Any, live: Any, order: Any, logits: Any, limit: int) -> Any:
    """New ids [T, k], −1 for a slot without a place. One after another, because each place taken is one fewer."""
    import numpy as np

    new = ids.astype(np.int64)
    taken = np.zeros(logits.shape[1], np.int64)
    used = np.zeros(logits.shape, bool)
    np.put_along_axis(used, new, True, axis=1)
    for slot in order.tolist():
        t, i = divmod(slot, ids.shape[1])
        if not live[t, i]:
            continue
        if taken[new[t, i]] >= limit:
            free = np.where(used[t] | (taken >= limit), -np.inf, logits[t])
            best = int(free.argmax())
            new[t, i] = best if free[best] > -np.inf else -1
            used[t, best] |= new[t, i] >= 0
        if new[t, i] >= 0:
            taken[new[t, i]] += 1
    return new


INTERVENTION = Intervention(
    name="capacity",
    title="Expert capacity",
    does="limits how many tokens of a pass an expert takes; what is over is dropped, or sent to the token's best "
    "other expert with room",
    formula="C = ⌈γ·k·T/E⌉ over the pass's T tokens (padding not counted); dropped: w ← 0; rerouted: "
    "w ← w · p_new / p_old",
    source="Capacity-Aware Inference, arXiv 2503.05066; capacity: Switch Transformers, arXiv 2101.03961",
    shows="no expert with more than C tokens of a pass",
    options=(
        Option("gamma", finite, 1.0, "γ, the capacity factor", low=1e-6, high=1e6),
        Option("mode", str, "drop", "what happens to the overflow", ("drop", "reroute")),
        Option("keep", str, "score", "who keeps a place: the best scores, the first or the last tokens", ORDERS),
    ),
    assign=assign,
    drops=True,
    needs=("logits", "scores"),
    per_pass=True,
    neutral={"gamma": 1e6},
    example={"gamma": 0.5},
    aliases={"order": "keep"},
    notes="k is the number of slots that arrive, T all tokens of the batch: what is dropped depends on who shares the "
    "pass, and by `keep=last` or `keep=score` on later tokens. A single token being decoded always fits. Rerouting "
    "with `keep=first` is what the metric `capacity --mode reroute` counts.",
)
