"""What the model predicted while it was recorded: the log-probability each token had, and the most likely next one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from probes.capture.head import SplitHead, headless
from probes.capture.stage import Member

if TYPE_CHECKING:
    import torch

    from probes.capture.inputs import Inputs

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


class Predictions(Member):
    """Watches a model's own output logits; a context manager that takes its hooks off again.

    The last position of a forward pass predicts the first token of the next one, so its log-probabilities wait for it
    (one row of the vocabulary per sequence). One entry per pass that `capture` sees, with NaN and -1 where the module
    around it gave no logits over the vocabulary (a classifier's are none). `why_not`: why there are none, empty where
    there are.
    """

    def __init__(self, model: Any) -> None:
        from probes.capture.discovery import discover
        from probes.capture.within import language_model, roots

        self.model = model
        inner = language_model(model)
        self.roots = [module for module, _, _ in roots(model, discover(model))] or [inner]
        self._vocabulary = _vocabulary(inner)
        self._head = SplitHead(model)
        self._on: Any = None
        self._pass: Inputs | None = None  # the last one, while its logits are to come
        self._pending: tuple[torch.Tensor, torch.Tensor, int] | None = None  # last logits, logsumexp, next position
        self._forwards: list[ForwardPredictions] = []
        self.why_not = f"{why}: predictions are missing" if (why := headless(model)) else ""

    def __enter__(self) -> Predictions:
        from probes.capture.stage import on_stage

        self._on = on_stage(self.model, self)
        self._on.__enter__()
        self._head.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._head.__exit__()
        self._on.__exit__(None, None, None)

    def take(self) -> list[ForwardPredictions]:
        """The forward passes since the last call; the next one starts new sequences."""
        self._none()
        forwards, self._forwards, self._pending = self._forwards, [], None
        return forwards

    def begin(self, root: Any, inputs: Inputs) -> None:
        self._none()
        self._head.take()

    def end(self, root: Any, inputs: Inputs) -> None:
        self._pass = inputs

    def _none(self) -> None:
        """The pass before gave no logits."""
        if self._pass is not None:
            self._forwards.append(_nothing(self._pass))
            self._pass = self._pending = None

    def returned(self, module: Any, output: Any) -> None:
        logits: Any = getattr(output, "logits", None)
        if self._pass is None or getattr(logits, "ndim", 0) != 3 or logits.shape[-1] < self._vocabulary:
            return
        inputs, self._pass = self._pass, None
        hidden = self._head.take()
        source = logits if hidden is None else hidden
        if inputs.ids is not None and source.shape[1] <= inputs.length:
            self._forwards.append(self._read(inputs.ids, logits.detach(), hidden, inputs))
        else:
            self._forwards.append(_nothing(inputs))

    def _read(
        self, ids: torch.Tensor, logits: torch.Tensor, hidden: torch.Tensor | None, inputs: Inputs
    ) -> ForwardPredictions:
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
        # Candidates that were not taken lie between where the next pass begins before this one's end.
        if self._pending is not None and self._pending[2] == inputs.start and len(self._pending[0]) == len(ids):
            logprob[:, :1] = _logprob(*self._pending[:2], ids[:, :1])
        self._pending = logits[:, -1:].clone(), total[:, -1:], inputs.start + inputs.length
        return ForwardPredictions(logprob, predicted)


def _nothing(inputs: Inputs) -> ForwardPredictions:
    import torch

    shape = (inputs.batch, inputs.length)
    return ForwardPredictions(torch.full(shape, float("nan")), torch.full(shape, -1))


def _vocabulary(model: Any) -> int:
    """The least width of logits over the vocabulary; those of a classifier have another meaning and are narrower."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if head is not None:
        return 1
    embeddings = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    return int(getattr(embeddings, "num_embeddings", 1))


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
        chosen[rows] = _chosen(logits, wanted[rows].to(logits.device)[:, 0])
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
    return _chosen(logits, ids) - total


def _chosen(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """The logits [..., V] of ids [...] as float32; NaN for what is no token of the vocabulary (an adapter's own)."""
    found = logits.gather(-1, ids.clamp(min=0).unsqueeze(-1)).squeeze(-1).float()
    return found.masked_fill(ids < 0, float("nan"))
