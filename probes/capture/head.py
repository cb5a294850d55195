"""The language model's head at the last position only: [B, S, V] logits are large, and a recording needs few of them.

8,000 tokens of a vocabulary of 150,000 are 4.8 GB in float32. Where no logits are needed, a model is asked for those of
the last position. Where they are (predictions), the head is given the hidden states in pieces, and only from
`LARGE` on: below, everything is computed as the model itself does it, bit for bit. A matrix product of other rows may
round differently in the last bit.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from probes.capture.within import accepts, language_model, reader, writes

LARGE = 256 << 20  # bytes of logits from which on the head runs in pieces
PIECE = 64 << 20  # bytes of logits of one piece


def last_only(model: Any) -> dict[str, Any]:
    """What a forward pass is given, besides its inputs, to compute the last position's logits and no others."""
    return {"logits_to_keep": 1} if takes_logits_to_keep(model) else {}


def takes_logits_to_keep(model: Any) -> bool:
    """Does the model inside know `logits_to_keep`, and do the wrappers around it hand it on?"""
    inner, called = language_model(model), reader(model)
    asks = getattr(inner, "_supports_logits_to_keep", None)
    known = bool(asks()) if asks is not None else "logits_to_keep" in inspect.signature(inner.forward).parameters
    return known and (called is inner or accepts(called, "input_ids", "logits_to_keep"))


def head_of(model: Any) -> Any:
    """The module that makes logits of hidden states; None for a model without one (a backbone, a classifier)."""
    find = getattr(language_model(model), "get_output_embeddings", None)
    return find() if callable(find) else None


def headless(model: Any) -> str:
    """Why this model predicts no next token (a backbone, a classifier), in words; empty where it does."""
    inner = language_model(model)
    asks = getattr(inner, "get_output_embeddings", None)
    none = callable(asks) and asks() is None and not writes(model)
    return f"{type(inner).__name__} has no language model's head" if none else ""


class SplitHead:
    """Keeps a head from computing large logits at once; `pieces` gives them afterwards, a piece at a time.

    A context manager over hooks on the head alone. `plain`: nothing happens between the head and the model's logits
    (no soft cap, no scale); where something does, the head is left alone. Making one runs a pass of two tokens to find
    that out, which nothing else that watches the model sees.
    """

    def __init__(self, model: Any) -> None:
        self._model, self._head = model, head_of(model)
        self._handles: list[Any] = []
        self._own = False
        self.plain = self._head is not None and hasattr(self._head, "weight") and self._is_plain()
        self.hidden: Any = None  # [B, S, H] of the pass that was cut, else None

    def __enter__(self) -> SplitHead:
        if self.plain:
            self._handles.append(self._head.register_forward_pre_hook(self._cut))
        return self

    def __exit__(self, *_: object) -> None:
        while self._handles:
            self._handles.pop().remove()

    def take(self) -> Any:
        """The hidden states of the pass that has just ended, if its head was cut; they are forgotten here."""
        hidden, self.hidden = self.hidden, None
        return hidden

    def pieces(self, rows: Any) -> Iterator[tuple[int, Any]]:
        """(first row, logits [n, V]) of hidden states [T, H], `PIECE` bytes at a time."""
        step = max(1, PIECE // self._bytes(rows))
        self._own = True
        try:
            for start in range(0, len(rows), step):
                yield start, self._head(rows[start : start + step])
        finally:
            self._own = False

    def _cut(self, _head: Any, args: tuple[Any, ...]) -> Any:
        hidden: Any = args[0] if args else None
        if self._own or getattr(hidden, "ndim", 0) != 3 or hidden.shape[1] < 2:
            return None
        if hidden.shape[0] * hidden.shape[1] * self._bytes(hidden) < LARGE:
            return None
        self.hidden = hidden.detach()
        return (hidden[:, -1:], *args[1:])

    def _bytes(self, hidden: Any) -> int:
        """Of one row of logits."""
        return int(self._head.weight.shape[0]) * int(hidden.element_size())

    def _is_plain(self) -> bool:
        """One small pass: are the model's logits what the head returned, and did it run once?"""
        import torch

        from probes.capture.check import dummy_inputs
        from probes.capture.stage import aside

        seen: list[Any] = []
        handle = self._head.register_forward_hook(lambda _module, _args, output: seen.append(output))
        try:
            with aside(self._model), torch.no_grad():
                inputs = dummy_inputs(self._model, tokens=2)
                logits = getattr(reader(self._model)(**inputs), "logits", None)
        finally:
            handle.remove()
        return len(seen) == 1 and logits is not None and torch.equal(logits, seen[0].to(logits))
