"""Our own Streamlit components: a piece of HTML with the style and the script that lie beside this file."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

_FILES = Path(__file__).parent


@lru_cache
def component(name: str, html: str) -> Any:
    """The component of `name`.js and, where it has a look, `name`.css, told to Streamlit once; call it to put it on a
    page."""
    import streamlit as st

    look = _FILES / f"{name}.css"
    css = look.read_text("utf-8") if look.exists() else None
    js = (_FILES / f"{name}.js").read_text("utf-8")
    return st.components.v2.component(f"router_workbench_{name}", html=html, css=css, js=js)
