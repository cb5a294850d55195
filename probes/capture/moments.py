"""Running count, mean and M2 of every expert's output vectors, merged pass by pass (Chan, Golub, LeVeque 1983)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass
class Moments:
    """count [E], mean [E, H] and m2 [E, H] (sum of squared deviations from the mean), in float32 on the device."""

    count: torch.Tensor
    mean: torch.Tensor
    m2: torch.Tensor

    @classmethod
    def zeros(cls, num_experts: int, width: int, device: Any) -> Moments:
        shape = (num_experts, width)
        return cls(
            torch.zeros(num_experts, device=device),
            torch.zeros(shape, device=device),
            torch.zeros(shape, device=device),
        )

    def add(self, outputs: torch.Tensor, experts: torch.Tensor, real: torch.Tensor | None = None) -> None:
        """Add outputs [T, k, H] of experts [T, k]; rows that are not `real` [T], and ids below 0, are left out."""
        keep = experts >= 0 if real is None else (experts >= 0) & real[:, None].to(experts.device)
        ids, values = experts[keep], outputs[keep].float()
        count = torch.zeros_like(self.count).index_add_(0, ids, torch.ones_like(ids, dtype=self.count.dtype))
        divisor = count.clamp(min=1)[:, None]
        mean = torch.zeros_like(self.mean).index_add_(0, ids, values) / divisor
        m2 = torch.zeros_like(self.m2).index_add_(0, ids, (values - mean[ids]).square())
        self._merge(count, mean, m2)

    def _merge(self, count: torch.Tensor, mean: torch.Tensor, m2: torch.Tensor) -> None:
        total = (self.count + count).clamp(min=1)
        delta = mean - self.mean
        self.m2 += m2 + delta.square() * (self.count * count / total)[:, None]
        self.mean += delta * (count / total)[:, None]
        self.count += count

    def arrays(self) -> tuple[Any, Any, Any]:
        """(count int64 [E], mean [E, H], m2 [E, H]) as NumPy arrays."""
        return self.count.long().cpu().numpy(), self.mean.cpu().numpy(), self.m2.cpu().numpy()
