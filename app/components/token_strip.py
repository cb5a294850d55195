"""The clickable text of a sequence: a Streamlit component whose page side puts every token there as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from app.components.own import component
from app.components.token_text import line_breaks, pieces, right_to_left
from app.palette import luminance

KEY = "token_strip"
HTML = '<div class="strip" role="listbox" tabindex="-1"></div>'


@dataclass(frozen=True)
class Shown:
    """One token of the strip: its text, its colour (None = no value) and what it says when pointed at."""

    position: int
    text: str | None
    color: str | None
    note: str
    faded: bool = False


def strip_data(
    tokens: Sequence[Shown],
    selected: int | None,
    *,
    kind: str,
    name: str,
    label: str,
    outside: tuple[int | None, int | None] = (None, None),
) -> dict[str, Any]:
    """What the page side gets, as JSON. `kind`: "category" (colour names an expert) or "amount" (colour is a scale).

    `name` changes when the text does, so that only then the elements are built anew. `outside`: the positions just
    before the first and after the last token here, where the arrow keys go on.
    """
    return {
        "id": name,
        "kind": kind,
        "label": label,
        "rtl": right_to_left([token.text for token in tokens]),
        "selected": selected,
        "before": outside[0],
        "after": outside[1],
        "tokens": [_entry(token) for token in tokens],
    }


def token_strip(data: dict[str, Any], on_select: Callable[[int], None], key: str = KEY) -> None:
    """Draw the strip; `on_select` is called with the position of a token that was clicked or moved to.

    `key` tells strips of one page apart.
    """
    import streamlit as st

    def selected() -> None:
        position = st.session_state[key].get("selected")
        if isinstance(position, int):
            on_select(position)

    component("token_strip", HTML)(key=key, data=data, on_selected_change=selected)


def _entry(token: Shown) -> dict[str, Any]:
    return {
        "position": token.position,
        "pieces": [list(piece) for piece in pieces(token.text)],
        "breaks": line_breaks(token.text),
        "color": token.color,
        "on_dark": token.color is not None and luminance(token.color) < 0.18,
        "faded": token.faded,
        "note": token.note,
    }
