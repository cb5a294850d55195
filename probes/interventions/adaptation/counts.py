"""How often each expert is chosen on each example, and which are chosen more often than before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from probes.capture.head import last_only
from probes.capture.recorder import capture
from probes.capture.want import Want
from probes.capture.within import device_of, language_model
from probes.interventions.adaptation.examples import Example, batches
from probes.interventions.decoding.prompt import padding_id
from probes.metrics.bootstrap import RESAMPLES, SEED, Weights, interval

AT_ONCE = 32


@torch.no_grad()
def chosen_counts(model: Any, examples: Sequence[Example]) -> dict[int, np.ndarray]:
    """layer -> int [N, E]: tokens of each example, prompt and target, that chose each expert."""
    want = Want(logits=False, weights=False, norms=False)
    model = language_model(model)
    device = device_of(model)
    parts: dict[int, list[np.ndarray]] = {}
    with capture(model, want) as recorder:
        experts = {router.layer: router.num_experts for router in recorder.routers}
        for batch in batches(examples, AT_ONCE, padding_id(model), device):
            model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False, **last_only(model))
            (forward,) = recorder.take()
            for layer, routing in forward.routing.items():
                counted = _counted(routing.experts, forward.mask, experts[layer])
                parts.setdefault(layer, []).append(counted)
    return {layer: np.concatenate(some) for layer, some in parts.items()}


def _counted(experts: np.ndarray, mask: np.ndarray, num_experts: int) -> np.ndarray:
    """int [B, E] from ids [B·S, k] and mask [B, S]."""
    sequence = np.repeat(np.arange(len(mask)), mask.shape[1])
    seen = (experts >= 0) & mask.reshape(-1)[:, None]
    cells = (sequence[:, None] * num_experts + experts)[seen]
    return np.bincount(cells, minlength=len(mask) * num_experts).reshape(len(mask), num_experts)


def gained(before: dict[int, np.ndarray], after: dict[int, np.ndarray], resamples: int = RESAMPLES) -> Any:
    """A DataFrame of who is chosen more often: layer, expert, before, after (counts), their shares of the layer's
    slots, the shares' difference with a 95 % interval over examples, and whether that is above 0.

    Sorted by layer, then difference. before, after: layer -> counts [N, E] of the same examples.
    """
    import pandas as pd

    tables = [pd.DataFrame(_rows(layer, before[layer], after[layer], resamples)) for layer in before]
    return pd.concat(tables, ignore_index=True).sort_values(["layer", "difference"], ascending=[True, False])


def _rows(layer: int, before: np.ndarray, after: np.ndarray, resamples: int) -> dict[str, Any]:
    weights = Weights(len(before), resamples, SEED).take(len(before)).astype(np.float64)
    drawn = _share(weights @ after) - _share(weights @ before)
    shares = _share(before.sum(0)), _share(after.sum(0))
    low, high = interval(shares[1] - shares[0], drawn)
    return {
        "layer": layer,
        "expert": np.arange(before.shape[1]),
        "before": before.sum(0),
        "after": after.sum(0),
        "share_before": shares[0],
        "share_after": shares[1],
        "difference": shares[1] - shares[0],
        "low": low,
        "high": high,
        "gained": low > 0,
    }


def _share(counts: np.ndarray) -> np.ndarray:
    return counts / np.maximum(counts.sum(-1, keepdims=True), 1)
