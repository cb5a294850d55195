"""The text of each token id, kept once per run; a token keeps its own text only where it differs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa


class Vocabulary:
    def __init__(self) -> None:
        self.text: dict[int, str] = {}
        self._written = 0

    def overrides(self, ids: Any, texts: Any, n: int) -> pa.Array:
        """Arrow strings [n]: NULL where the vocabulary says it all; new ids are learnt on the way."""
        if texts is None:
            return pa.nulls(n, pa.string())
        own = np.empty(n, dtype=object)
        own[:] = _clean(texts)
        if ids is None:
            return pa.array(own, pa.string())
        values, first, back = np.unique(np.asarray(ids), return_index=True, return_inverse=True)
        for i in np.argsort(first):
            if values[i] >= 0 and int(values[i]) not in self.text and own[first[i]] is not None:
                self.text[int(values[i])] = own[first[i]]
        known = np.array([self.text.get(int(v)) for v in values], dtype=object)[back]
        return pa.array(own, pa.string(), mask=np.asarray(own == known, dtype=bool))

    def unwritten(self, run_id: int) -> pa.Table | None:
        new = list(self.text.items())[self._written :]
        if not new:
            return None
        ids, texts = zip(*new, strict=True)
        return pa.table(
            {
                "run_id": pa.repeat(pa.scalar(run_id, pa.int32()), len(new)),
                "token_id": pa.array(ids, pa.int32()),
                "text": pa.array(texts, pa.string()),
            }
        )

    def written(self) -> None:
        self._written = len(self.text)


def _clean(texts: Any) -> list[str | None]:
    """Texts as UTF-8 can hold them: a lone surrogate (half an emoji) becomes the replacement character."""
    try:
        "".join(filter(None, texts)).encode("utf-8")
    except (UnicodeEncodeError, TypeError):
        return [None if t is None else str(t).encode("utf-8", "replace").decode("utf-8") for t in texts]
    return list(texts)
