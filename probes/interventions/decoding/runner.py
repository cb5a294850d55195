"""Runs the copies of a batch through the model, position by position, and keeps their caches."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from probes.errors import ProbeError


class Runner:
    """Row b·copies + c is copy c of sequence b.

    lends  after every pass, all copies of a sequence go on with the cache of the first
    """

    def __init__(self, model: Any, copies: int, use_cache: bool, lends: bool) -> None:
        self.forwards = self.rows = 0
        self._model, self._copies, self._use_cache, self._lends = model, copies, use_cache, lends
        self._takes = set(inspect.signature(model.forward).parameters)
        self._cache: Any = None
        self._seen = 0

    def forget(self) -> None:
        """Drop what is cached: the next pass computes everything anew."""
        self._cache, self._seen = None, 0

    def prefix(self, ids: torch.Tensor, mask: torch.Tensor) -> None:
        """Cache ids [B, S] once, for all copies."""
        self._pass(ids, mask)
        self._select(torch.arange(len(ids), device=ids.device))
        self._seen = ids.shape[1]

    def run(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits [B, copies, V] after ids [B, S], float32; what is cached is not computed again."""
        wide_ids, wide_mask = (x.repeat_interleave(self._copies, 0) for x in (ids, mask))
        logits = self._pass(wide_ids, wide_mask)
        if self._use_cache:
            self._seen = ids.shape[1]
            if self._lends and self._copies > 1:
                self._select(torch.arange(len(ids), device=ids.device) * self._copies)
        return logits.view(len(ids), self._copies, -1)

    def _pass(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        new = ids[:, self._seen :]
        inputs = {"input_ids": new, "attention_mask": mask, "use_cache": self._use_cache}
        if "position_ids" in self._takes:
            inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)[:, self._seen :]
        if "logits_to_keep" in self._takes:
            inputs["logits_to_keep"] = 1
        if self._cache is not None:
            inputs["past_key_values"] = self._cache
        output = self._model(**inputs)
        self.forwards, self.rows = self.forwards + 1, self.rows + new.numel()
        if self._use_cache:
            self._keep(output)
        return output.logits[:, -1].float()

    def _keep(self, output: Any) -> None:
        self._cache = getattr(output, "past_key_values", None)
        if self._cache is None or not hasattr(self._cache, "reorder_cache"):
            raise ProbeError(
                f"{type(self._model).__name__} gives no cache to decode with; use_cache=False does without"
            )

    def _select(self, rows: torch.Tensor) -> None:
        """Go on with the cache of `rows`, each for all copies of a sequence."""
        from transformers import DynamicCache

        # MiniMax's cache reorders only the layers with attention, and what it has of its own fails on a mixed model.
        if type(self._cache).batch_select_indices is not DynamicCache.batch_select_indices:
            name = type(self._cache).__name__
            raise ProbeError(
                f"copies cannot share a {name}, which reorders only some layers; use_cache=False does without"
            )
        self._cache.reorder_cache(rows.repeat_interleave(self._copies))
