"""Pieces of HTML with foreign words in them, escaped where they are made: links, tokens, experts, tables of these.

`Safe` is HTML that was made here; everything else that is put into a table or a sentence is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any
from urllib.parse import urlencode

import pandas as pd

from app import state
from app.components.token_text import pieces, visible
from app.palette import expert_color

FIRST_PAGE = "overview"  # the one at the bare address


class Safe(str):
    """HTML of our own making, every foreign word in it escaped."""

    __slots__ = ()


def safe(value: Any) -> Safe:
    """Anything as HTML: what is not `Safe` is escaped."""
    return value if isinstance(value, Safe) else Safe(escape(str(value)))


def href(page: str, **choices: Any) -> str:
    """The address of a page with these choices, in the trace and run of this one. None leaves a choice out."""
    kept = state.read_all("trace", "run", "job") | choices
    query = urlencode({name: str(value) for name, value in kept.items() if value is not None})
    return f"./{'' if page == FIRST_PAGE else page}{'?' if query else ''}{query}"


def link(page: str, says: Any, **choices: Any) -> Safe:
    """A link to another page with these choices: for a sentence or a cell of a table."""
    return Safe(f'<a class="rw-link" href="{escape(href(page, **choices))}" target="_self">{safe(says)}</a>')


def button(page: str, says: str, **choices: Any) -> Safe:
    """A link that looks like a button: something to do rather than to read."""
    return Safe(str(link(page, says, **choices)).replace('class="rw-link"', 'class="rw-link rw-button"', 1))


def expert(layer: int, number: int, num_experts: int) -> Safe:
    """An expert in its colour, as layer·expert, leading to its card."""
    swatch = f'<i style="background:{expert_color(number, num_experts)}"></i>'
    return Safe(
        f'<span class="rw-expert">{swatch}{link("experts", f"{layer}·{number}", layer=layer, expert=number)}</span>'
    )


def token(text: str | None) -> Safe:
    """The text of a token, with marks for what cannot be seen."""
    parts = "".join(
        f'<span class="rw-mark">{escape(piece.text)}</span>' if piece.kind == "mark" else escape(piece.text)
        for piece in pieces(text)
    )
    return Safe(f'<bdi class="rw-piece">{parts}</bdi>')


def token_of(row: Any) -> Safe:
    """The token of a row with token and token_id: its text, or its id where there is none."""
    return token(row.token) if isinstance(row.token, str) else safe(f"id {row.token_id}")


def plain_token(row: Any) -> str:
    """The same as text, with marks for what cannot be seen; empty where nothing is known."""
    if isinstance(row.token, str):
        return visible(row.token)
    return f"id {int(row.token_id)}" if row.token_id is not pd.NA and row.token_id == row.token_id else ""


def context(texts: Sequence[str | None], at: int) -> Safe:
    """Tokens in a row as one line, the one at place `at` highlighted."""
    parts = [f"<mark>{token(text)}</mark>" if place == at else str(_flat(text)) for place, text in enumerate(texts)]
    return Safe(f'<bdi class="rw-context">{"".join(parts)}</bdi>')


def _flat(text: str | None) -> Safe:
    """A token beside the highlighted one: spaces as spaces, everything else that cannot be seen as marks."""
    stripped = [piece._replace(kind="text", text=" ") if piece.text == "␣" else piece for piece in pieces(text)]
    return Safe("".join(
        f'<span class="rw-mark">{escape(piece.text)}</span>' if piece.kind == "mark" else escape(piece.text)
        for piece in stripped
    ))  # fmt: skip


def bar(share: float, color: str = "var(--rw-accent)", wide: bool = False) -> Safe:
    """A thin bar as long as the share (0..1) of its cell; `wide` asks for a cell of its own."""
    width = 100 * min(max(share, 0.0), 1.0) if share == share else 0
    kind = "rw-bar rw-wide" if wide else "rw-bar"
    return Safe(f'<span class="{kind}"><i style="width:{width:.1f}%;background:{color}"></i></span>')


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "") -> Safe:
    """A table; cells are `Safe` or are escaped. A head that begins with # is of numbers, set to the right."""
    kinds = [' class="rw-number"' if name.startswith("#") else "" for name in head]
    top = "".join(f"<th{kind}>{escape(name.lstrip('#'))}</th>" for name, kind in zip(head, kinds, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{safe(cell)}</td>" for cell, kind in zip(row, kinds, strict=True)) + "</tr>"
        for row in rows
    )
    said = f"<caption>{escape(caption)}</caption>" if caption else ""
    return Safe(f'<div class="rw-table"><table>{said}<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>')
