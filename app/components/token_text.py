"""The text of a token made visible: spaces, line ends, bytes and what cannot be seen become marks.

Token text is data from anywhere. Nothing here makes markup; the pieces are put on the page as text.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any, NamedTuple

BYTE = re.compile(r"^(?:<0x([0-9A-Fa-f]{2})>)+$")
_BYTES_IN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_NAMED = {" ": "␣", "\n": "⏎", "\r": "␍", "\t": "⇥", "\x7f": "␡", "\u00a0": "⍽"}
_JOINERS = "\u200c\u200d"  # inside emoji and Persian or Indic words these belong to the text
_EMPTY = "∅"
MAX_SHOWN = 200  # characters of one token that are drawn; some vocabularies hold very long runs


class Piece(NamedTuple):
    """A stretch of a token: kind "text" is drawn as it is, "mark" stands for something that cannot be seen."""

    kind: str
    text: str


def pieces(token: str | None) -> list[Piece]:
    """The token as text and marks, in order; a missing or empty token is one mark."""
    if not token:
        return [Piece("mark", _EMPTY)]
    if BYTE.match(token):
        return [Piece("mark", " ".join(byte.upper() for byte in _BYTES_IN.findall(token)))]
    found: list[Piece] = []
    for character in token[:MAX_SHOWN]:
        piece = _piece(character, token)
        if found and piece.kind == "text" == found[-1].kind:
            found[-1] = Piece("text", found[-1].text + piece.text)
        else:
            found.append(piece)
    return [*found, Piece("mark", "…")] if len(token) > MAX_SHOWN else found


_SPACE = Piece("mark", _NAMED[" "])


def visible(token: str | None) -> str:
    """The token on one line, every character to be seen: for tables, titles and file names."""
    return "".join(piece.text for piece in pieces(token))


def legible(text: Any) -> str:
    """A name or the beginning of a text, on one line: as `visible`, but spaces stay spaces."""
    return "".join(" " if piece == _SPACE else piece.text for piece in pieces(str(text)))


def line_breaks(token: str | None) -> int:
    """How many line ends the token holds; the text breaks after it."""
    return (token or "").count("\n")


def right_to_left(tokens: list[str | None]) -> bool:
    """Whether most letters are written from right to left, so that the lines should run that way too."""
    right = left = 0
    for token in tokens:
        for character in token or "":
            direction = unicodedata.bidirectional(character)
            right += direction in ("R", "AL")
            left += direction == "L"
    return right > left


def _piece(character: str, token: str) -> Piece:
    if character in _NAMED:
        return Piece("mark", _NAMED[character])
    if character < " ":
        return Piece("mark", chr(0x2400 + ord(character)))
    if character in _JOINERS and len(token) > 1:
        return Piece("text", character)
    # Cf: bidi marks, zero-width spaces; Cc: C1 controls; Co, Cs, Cn: nothing a font could show. U+FFFD: a lost byte.
    if unicodedata.category(character) in ("Cf", "Cc", "Cs", "Co", "Cn", "Zl", "Zp"):
        return Piece("mark", f"U+{ord(character):04X}")
    return Piece("text", character)
