"""A command or a file's text on a page, to be copied. Streamlit's own loads a highlighter as large as a page."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

_FILES = Path(__file__).parent


def copyable(text: str, key: str) -> None:
    """The text as it is, lines wrapped, with a button that copies it."""
    # A doubled underline is a delimiter of Streamlit's own, and a key may have a random name in it.
    _component()(key=key.replace("_", "-"), data=text)


@lru_cache(maxsize=1)
def _component() -> Any:
    import streamlit as st

    return st.components.v2.component(
        "router_workbench_copyable",
        html='<div class="copyable"><pre><code></code></pre><button type="button">Copy</button></div>',
        css=(_FILES / "copyable.css").read_text("utf-8"),
        js=(_FILES / "copyable.js").read_text("utf-8"),
    )
