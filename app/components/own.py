"""Our own Streamlit components: a piece of HTML with the style and the script that lie beside this file."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

_FILES = Path(__file__).parent


@lru_cache
def component(name: str, html: str) -> Any:
    """The component of `name`.css and `name`.js, told to Streamlit once; call it to put it on a page."""
    import streamlit as st

    css, js = ((_FILES / f"{name}.{kind}").read_text("utf-8") for kind in ("css", "js"))
    return st.components.v2.component(f"router_workbench_{name}", html=html, css=css, js=js)
