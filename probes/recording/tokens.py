"""The text of single tokens, as it reads inside a sentence, for any tokenizer."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class TokenTexts:
    """Token id -> text, each id worked out once. Leading spaces are kept; a piece of a character shows its bytes."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, str] = {}
        # SentencePiece tokenizers drop the leading space of the first piece, so every piece is read after another one.
        self._anchor = tokenizer.encode("a", add_special_tokens=False)[-1:]
        self._prefix = self._decode(self._anchor)

    def __call__(self, ids: Iterable[int]) -> list[str]:
        return [self._known[i] if i in self._known else self._learn(i) for i in ids]

    def _learn(self, token_id: int) -> str:
        text = self._decode([*self._anchor, token_id])
        text = text[len(self._prefix) :] if text.startswith(self._prefix) else self._decode([token_id])
        if REPLACEMENT in text or not text:
            text = self._piece(token_id)
        self._known[token_id] = text
        return text

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _piece(self, token_id: int) -> str:
        """The vocabulary's own spelling; byte-level alphabets are turned back into the bytes they stand for."""
        piece = self._tokenizer.convert_ids_to_tokens(token_id) or ""
        alphabet = _byte_alphabet()
        if piece and all(character in alphabet for character in piece):
            return "".join(f"<0x{alphabet[character]:02X}>" for character in piece)
        return piece


@lru_cache(maxsize=1)
def _byte_alphabet() -> dict[str, int]:
    """Inverse of the printable characters that byte-level BPE writes for the 256 bytes (GPT-2's rule).

    Printable Latin-1 characters stand for themselves; the others are shifted behind U+0100 in ascending order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    shifted = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(shifted)}
