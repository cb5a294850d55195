"""Many tokens in pieces, so that temporaries stay small."""

from __future__ import annotations

from collections.abc import Iterator

CELLS = 4_000_000


def pieces(tokens: int, width: int) -> Iterator[slice]:
    """Slices of 0..tokens of about CELLS numbers, where one token has `width`."""
    size = max(1, CELLS // max(1, width))
    return (slice(a, min(a + size, tokens)) for a in range(0, tokens, size))
