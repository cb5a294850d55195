"""What has been written so far, and where each sequence ended."""

from __future__ import annotations

from typing import Any

import torch

from probes.interventions.decoding.base import Decoded
from probes.interventions.decoding.prompt import Prompt


class Written:
    """The new tokens of a batch. A sequence is done when its last tokens are one of `ends`."""

    def __init__(self, prompt: Prompt, ends: tuple[tuple[int, ...], ...], padding: int, keep_scores: bool) -> None:
        self._prompt, self._ends, self._padding = prompt, ends, padding
        self._ids: list[torch.Tensor] = []
        self._logprobs: list[torch.Tensor] = []
        self._scores: list[torch.Tensor] | None = [] if keep_scores else None
        self._lengths = torch.zeros(prompt.batch, dtype=torch.long, device=prompt.ids.device)
        self._stopped = torch.zeros_like(self._lengths, dtype=torch.bool)

    @property
    def done(self) -> bool:
        """Have all sequences ended?"""
        return bool(self._stopped.all())

    @property
    def ids(self) -> torch.Tensor:
        """The new tokens [B, N]."""
        return torch.stack(self._ids, 1) if self._ids else self._prompt.ids[:, :0]

    def end(self, sequences: Any) -> None:
        """End the sequences for which the bools [B] are true."""
        if sequences is not None:
            self._stopped = self._stopped | torch.as_tensor(sequences, dtype=torch.bool, device=self._stopped.device)

    def whole(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask [B, S + N] of prompt and new tokens; what follows an end is padding."""
        new = torch.arange(len(self._ids), device=self._lengths.device) < self._lengths[:, None]
        return torch.cat([self._prompt.ids, self.ids], 1), torch.cat([self._prompt.mask, new.long()], 1)

    def add(self, tokens: torch.Tensor, scores: torch.Tensor) -> None:
        """The next token [B] of each sequence, drawn from scores [B, V]; an ended sequence takes none."""
        logprobs = scores.log_softmax(-1).gather(1, tokens[:, None])[:, 0]
        self._ids.append(tokens.masked_fill(self._stopped, self._padding))
        self._logprobs.append(logprobs.masked_fill(self._stopped, float("nan")))
        if self._scores is not None:
            self._scores.append(scores)
        self._lengths = self._lengths + (~self._stopped).long()
        self._stopped = self._stopped | self._ended()

    def _ended(self) -> torch.Tensor:
        ended = torch.zeros_like(self._stopped)
        for end in self._ends:
            if len(end) <= len(self._ids):
                last = torch.stack(self._ids[-len(end) :], 1)
                ended |= (last == torch.tensor(end, device=last.device)).all(1)
        return ended

    def result(self, forwards: int, rows: int, seconds: float) -> Decoded:
        """Everything, as `decode` returns it."""
        return Decoded(
            ids=self.ids,
            logprobs=torch.stack(self._logprobs, 1) if self._logprobs else self._prompt.ids[:, :0].float(),
            lengths=self._lengths,
            stopped=self._stopped,
            forwards=forwards,
            rows=rows,
            seconds=seconds,
            scores=torch.stack(self._scores, 1) if self._scores else None,
        )
