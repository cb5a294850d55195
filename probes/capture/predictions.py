"""What the model predicted while it was recorded: the log-probability each token had, and the most likely next one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from probes.capture.head import SplitHead, headless

if TYPE_CHECKING:
    import torch

# float32 logits looked at together. On the CPU a piece that stays in the cache is three times as fast as all at once
# (1 thread, [2048, 8192]: logsumexp 54 against 16 ms); elsewhere it bounds the copy, 0.6 MB per token of a vocabulary
# of 150,000.
AT_ONCE = {"cpu": 256 << 10}
AT_ONCE_ELSEWHERE = 64 << 20


@dataclass(frozen=True, slots=True)
class ForwardPredictions:
    """Of one forward pass, torch tensors [batch, length]: NaN and -1 where the model gave no logits.

    logprob       natural log of the probability that the token fed *here* had, given everything before it
    predicted_id  the most likely token to follow here
    """

    logprob: torch.Tensor
    predicted_id: torch.Tensor


class Predictions:
    """Watches a model's own output logits; a context manager that takes its hooks off again.

    The last position of a forward pass predicts the first token of the next one, so its log-probabilities wait for it
    (one row of the vocabulary per sequence). `why_not`: why there are none, empty where there are.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._handle: Any = None
        self._head = SplitHead(model)
        self._pending: tuple[torch.Tensor, torch.Tensor] | None = None  # last position's logits and their logsumexp
        self._forwards: list[ForwardPredictions] = []
        self.why_not = f"{why}: predictions are missing" if (why := headless(model)) else ""
        both = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
        self._name = "decoder_input_ids" if both else "input_ids"  # whose following token is predicted

    def __enter__(self) -> Predictions:
        if not self.why_not:
            self._head.__enter__()
            self._handle = self._model.register_forward_hook(self._after_forward, with_kwargs=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._handle is not None:
            self._handle.remove()
        self._head.__exit__()

    def take(self) -> list[ForwardPredictions]:
        """The forward passes since the last call; the next one starts new sequences."""
        forwards, self._forwards, self._pending = self._forwards, [], None
        return forwards

    def _after_forward(self, _model: Any, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        hidden = self._head.take()
        ids = kwargs.get(self._name, args[0] if args and self._name == "input_ids" else None)
        logits = getattr(output, "logits", None)
        if ids is None or logits is None:
            return
        self._forwards.append(self._read(ids, logits.detach(), hidden))

    def _read(self, ids: torch.Tensor, logits: torch.Tensor, hidden: torch.Tensor | None) -> ForwardPredictions:
        import torch

        source = logits if hidden is None else hidden
        missing = ids.shape[1] - source.shape[1]  # generation may keep only the last positions' logits
        logprob = torch.full(ids.shape, float("nan"), dtype=torch.float32, device=ids.device)
        predicted = torch.full(ids.shape, -1, dtype=torch.int64, device=ids.device)
        following = torch.zeros_like(ids[:, missing:])  # the token after each position; none is known after the last
        following[:, :-1] = ids[:, missing + 1 :]
        best, total, chosen = _read_off(_blocks(source, None if hidden is None else self._head), following)
        predicted[:, missing:] = best
        logprob[:, missing + 1 :] = (chosen - total)[:, :-1]
        if self._pending is not None:
            logprob[:, :1] = _logprob(*self._pending, ids[:, :1])
        self._pending = logits[:, -1:].clone(), total[:, -1:]
        return ForwardPredictions(logprob, predicted)


def _blocks(source: torch.Tensor, head: SplitHead | None) -> Iterable[tuple[int, torch.Tensor]]:
    """(first row, logits [n, V]) over all positions, from logits [B, S, V] or from hidden states [B, S, H]."""
    rows = source.reshape(-1, source.shape[-1])
    return [(0, rows)] if head is None else head.pieces(rows)


def _read_off(
    blocks: Iterable[tuple[int, torch.Tensor]], following: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """argmax, logsumexp over the vocabulary, and the logit of the token that follows (float32): [B, S] each."""
    import torch

    wanted = following.reshape(-1, 1)
    best = torch.empty_like(wanted[:, 0])
    total, chosen = (torch.empty(len(wanted), dtype=torch.float32, device=wanted.device) for _ in range(2))
    for start, logits in blocks:
        rows = slice(start, start + len(logits))
        best[rows], total[rows] = _reduced(logits)
        chosen[rows] = logits.gather(-1, wanted[rows].to(logits.device)).squeeze(-1).float()
    shape = following.shape
    return best.view(shape), total.view(shape), chosen.view(shape)


def _reduced(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """argmax and (in float32) logsumexp over the vocabulary, [n, V] -> [n] each, a piece at a time."""
    import torch

    step = max(1, AT_ONCE.get(rows.device.type, AT_ONCE_ELSEWHERE) // (4 * rows.shape[1]))
    best, total = rows.new_empty(len(rows), dtype=torch.int64), rows.new_empty(len(rows), dtype=torch.float32)
    for start in range(0, len(rows), step):
        piece = rows[start : start + step].float()
        best[start : start + step], total[start : start + step] = _argmax(piece), piece.logsumexp(dim=-1)
    return best, total


def _argmax(rows: torch.Tensor) -> torch.Tensor:
    """First index of the largest value. NumPy's takes a sixth of the time of torch's on the CPU (7 against 43 ms)."""
    import torch

    return torch.from_numpy(rows.numpy().argmax(axis=-1)) if rows.device.type == "cpu" else rows.argmax(dim=-1)


def _logprob(logits: torch.Tensor, total: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """log softmax(logits)[ids] from the logsumexp `total`, [B, S, V], [B, S] and [B, S] -> float32 [B, S]."""
    return logits.gather(-1, ids.unsqueeze(-1)).squeeze(-1).float() - total
