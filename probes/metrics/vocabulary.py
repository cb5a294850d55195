"""Tokens as targets: one small number per vocabulary entry, given in the order they first appear."""

from __future__ import annotations

from typing import Any

import numpy as np

from probes.errors import ProbeError
from probes.routing import RoutingArrays


class Vocabulary:
    """Grows while a trace streams by. An entry is a token id where the trace has ids, else a token's text."""

    def __init__(self) -> None:
        self._code: dict[Any, int] = {}
        self._text: dict[Any, str] = {}

    def __len__(self) -> int:
        return len(self._code)

    def entries(self) -> tuple[Any, ...]:
        """What has a number, in the order of the numbers."""
        return tuple(self._code)

    def codes(self, arrays: RoutingArrays) -> np.ndarray:
        """[T] the number of each token's entry."""
        if arrays.token_id is None and arrays.token is None:
            raise ProbeError("this needs token ids or token text, and the trace has neither")
        if arrays.token_id is None:
            return self.codes_of(_factorised(np.asarray(arrays.token, dtype=object)))
        entries, first, inverse = np.unique(np.asarray(arrays.token_id), return_index=True, return_inverse=True)
        if arrays.token is not None:
            self._text.update((int(e), arrays.token[i]) for e, i in zip(entries, first, strict=True))
        return self.codes_of((entries.tolist(), inverse))

    def targets(self, arrays: RoutingArrays, starts: np.ndarray, kind: str | None) -> np.ndarray:
        """[T] the entry at each position ("token"), of the model's guess ("predicted") or at the next one ("next").

        -1 where there is none: no guess was recorded, or the sequence ends.
        """
        if kind == "predicted":
            guess = np.asarray(arrays.predicted_id)
            entries, inverse = np.unique(guess, return_inverse=True)
            codes = self.codes_of((entries.tolist(), inverse))
            return np.where((guess < 0) | (guess != guess), -1, codes)
        codes = self.codes(arrays)
        if kind == "next":
            codes = np.append(codes[1:], -1)
            codes[starts[1:] - 1] = -1
        return codes

    def codes_of(self, unique: tuple[list[Any], np.ndarray]) -> np.ndarray:
        """[T] from (distinct entries, inverse)."""
        entries, inverse = unique
        table = [self._code.setdefault(e, len(self._code)) for e in entries]
        return np.asarray(table, np.int64)[np.asarray(inverse).ravel()]

    def names(self) -> tuple[Any, ...]:
        """The name of every entry: its text, or its id where the trace has no text."""
        return tuple(_named(self._text.get(e), e) for e in self._code)


def _named(text: Any, entry: Any) -> Any:
    return entry if text is None else text


def _factorised(texts: np.ndarray) -> tuple[list[Any], np.ndarray]:
    import pandas as pd

    codes, entries = pd.factorize(texts, use_na_sentinel=False)
    return list(entries), codes
