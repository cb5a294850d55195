"""Who comes first, within groups: the step under capacities and protected tokens."""

from __future__ import annotations

from typing import Any

from probes.lazy import torch


def places(group: Any, order: Any, groups: int) -> Any:
    """int [n]: how many of the same group [n] (0..groups − 1) come before each in `order` (a permutation of n).

    >>> places(torch.tensor([0, 1, 0, 0]), torch.tensor([3, 2, 1, 0]), 2).tolist()
    [2, 0, 1, 0]
    """
    in_order = group[order]
    by_group = in_order.argsort(stable=True)  # members of a group side by side, in their order
    sizes = torch.zeros(groups, dtype=torch.long, device=group.device).scatter_add_(0, group, torch.ones_like(group))
    starts = sizes.cumsum(0) - sizes
    place = torch.arange(len(group), device=group.device) - starts[in_order[by_group]]
    return torch.empty_like(place).scatter_(0, order[by_group], place)
