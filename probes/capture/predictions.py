"""What the model predicted while it was recorded: the log-probability each token had, and the most likely next one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

ROWS_AT_ONCE_BYTES = 64 << 20  # float32 logits converted at once; a vocabulary of 150,000 makes 0.6 MB per token


@dataclass(frozen=True, slots=True)
class ForwardPredictions:
    """Of one forward pass, torch tensors [batch, length]: NaN and -1 where the model gave no logits.

    logprob       natural log of the probability that the token fed *here* had, given everything before it
    predicted_id  the most likely token to follow here
    """

    logprob: torch.Tensor
    predicted_id: torch.Tensor


class Predictions:
    """Watches a model's own output logits; a context manager that takes its hook off again.

    The last position of a forward pass predicts the first token of the next one, so its log-probabilities wait for it
    (one row of the vocabulary per sequence).
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._handle: Any = None
        self._pending: torch.Tensor | None = None
        self._forwards: list[ForwardPredictions] = []

    def __enter__(self) -> Predictions:
        self._handle = self._model.register_forward_hook(self._after_forward, with_kwargs=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def take(self) -> list[ForwardPredictions]:
        """The forward passes since the last call; the next one starts new sequences."""
        forwards, self._forwards, self._pending = self._forwards, [], None
        return forwards

    def _after_forward(self, _model: Any, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        logits = getattr(output, "logits", None)
        if ids is None or logits is None:
            return
        self._forwards.append(self._read(ids, logits.detach()))

    def _read(self, ids: torch.Tensor, logits: torch.Tensor) -> ForwardPredictions:
        import torch

        missing = ids.shape[1] - logits.shape[1]  # generation may keep only the last positions' logits
        logprob = torch.full(ids.shape, float("nan"), dtype=torch.float32, device=ids.device)
        predicted = torch.full(ids.shape, -1, dtype=torch.int64, device=ids.device)
        predicted[:, missing:] = logits.argmax(dim=-1)
        following = ids[:, missing + 1 :]
        logprob[:, missing + 1 :] = _logprob(logits[:, :-1], following)
        if self._pending is not None:
            logprob[:, :1] = _logprob(self._pending, ids[:, :1])
        self._pending = logits[:, -1:].clone()
        return ForwardPredictions(logprob, predicted)


def _logprob(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """log softmax(logits)[ids] in float32, [B, S, V] and [B, S] -> [B, S], a slice of positions at a time."""
    import torch

    if not ids.numel():
        return torch.empty(ids.shape, dtype=torch.float32, device=ids.device)
    step = max(1, ROWS_AT_ONCE_BYTES // (4 * logits.shape[0] * logits.shape[2]))
    parts = []
    for start in range(0, ids.shape[1], step):
        chunk = logits[:, start : start + step].float()
        chosen = chunk.gather(-1, ids[:, start : start + step].unsqueeze(-1)).squeeze(-1)
        parts.append(chosen - chunk.logsumexp(dim=-1))
    return torch.cat(parts, dim=1)
