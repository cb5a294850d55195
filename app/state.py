"""What has been chosen, kept in the URL: it survives reload, back and forward, and can be sent to someone else.

The URL is the truth. A picker takes its value from there, and its callback writes there before the page runs again. The
session only remembers the last choice, because going to another page empties the URL.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

CARRIED = ("trace", "run", "job", "layer", "expert", "sequence", "token")  # choices that mean the same on every page
_MEMORY = "_last_choices"
_PAGE = "_last_page"
MAX_LENGTH = 200  # of a value; a URL may come from anyone


def read(name: str) -> str | None:
    """The choice as the URL has it, or None."""
    import streamlit as st

    value = st.query_params.get(name)
    return value[:MAX_LENGTH] if value else None


def read_all(*names: str) -> dict[str, str | None]:
    """Several choices at once: a page of links asks for these a thousand times."""
    import streamlit as st

    given = st.query_params.to_dict()
    return {name: given[name][:MAX_LENGTH] if given.get(name) else None for name in names}


def read_int(name: str) -> int | None:
    """A choice that is a whole number; anything else in the URL counts as not chosen."""
    value = read(name)
    return int(value) if value and re.fullmatch("-?[0-9]{1,11}", value) else None


def one_of(name: str, options: Sequence[str]) -> str:
    """A choice that a picker further down the page will offer; the first option where the URL names none of them."""
    return next((option for option in options if option == read(name)), options[0])


def write(**choices: Any) -> None:
    """Put choices into the URL (None takes one out) and remember them for the other pages."""
    import streamlit as st

    memory = st.session_state.setdefault(_MEMORY, {})
    for name, value in choices.items():
        if value is None:
            memory.pop(name, None)
            if name in st.query_params:
                del st.query_params[name]
        else:
            memory[name] = str(value)
            if st.query_params.get(name) != str(value):
                st.query_params[name] = str(value)


def carry_over(page: str) -> None:
    """After a change of page, bring back the choices that hold everywhere; on the same page the URL alone counts."""
    import streamlit as st

    memory = st.session_state.setdefault(_MEMORY, {})
    if st.session_state.get(_PAGE) not in (None, page):
        for name in CARRIED:
            if name in memory and name not in st.query_params:
                st.query_params[name] = memory[name]
    st.session_state[_PAGE] = page
    memory.update({name: st.query_params[name] for name in CARRIED if name in st.query_params})


def pick(
    label: str,
    name: str,
    options: Sequence[Any],
    *,
    default: Any = None,
    shown: Callable[[Any], str] = str,
    clears: Sequence[str] = (),
    kind: str = "select",
    **widget: Any,
) -> Any:
    """A picker bound to the URL parameter `name`. `clears` names the choices that make no sense after a new one.

    `kind` is "select" or "segmented". A value in the URL that is not among the options counts as not chosen.
    """
    import streamlit as st

    by_text = {str(option): option for option in options}
    fallback = default if default is not None else options[0]
    key = f"pick_{name}"
    st.session_state[key] = by_text.get(read(name) or "", fallback)

    def chosen() -> None:
        value = st.session_state[key]
        write(**{name: None if value is None or value == fallback else value}, **dict.fromkeys(clears))

    draw: Any = st.selectbox if kind == "select" else st.segmented_control
    value = draw(label, list(options), key=key, format_func=shown, on_change=chosen, **widget)
    return fallback if value is None else value


def search(label: str, name: str, **widget: Any) -> str:
    """A text box bound to the URL parameter `name`."""
    import streamlit as st

    key = f"pick_{name}"
    st.session_state[key] = read(name) or ""
    st.text_input(
        label, key=key, max_chars=MAX_LENGTH, on_change=lambda: write(**{name: st.session_state[key] or None}), **widget
    )
    return st.session_state[key]


def amount(label: str, name: str, default: float, *, low: float, high: float, **widget: Any) -> float:
    """A number box bound to the URL parameter `name`; a number out of range in the URL counts as not chosen."""
    value = amount_or_none(label, name, float(default), low=low, high=high, **widget)
    return float(default) if value is None else value


def amount_or_none(
    label: str, name: str, default: float | None, *, low: float, high: float, **widget: Any
) -> float | None:
    """The same; with None as the default the box stays empty, and the answer None, until somebody writes a number."""
    import streamlit as st

    key = f"pick_{name}"
    st.session_state[key] = _between(read(name), low, high, default)

    def chosen() -> None:
        value = st.session_state[key]
        write(**{name: None if value is None or value == default else f"{value:g}"})

    value = st.number_input(label, float(low), float(high), key=key, on_change=chosen, **widget)
    return default if value is None else float(value)


def _between(text: str | None, low: float, high: float, otherwise: float | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return otherwise
    return value if low <= value <= high else otherwise
