"""Takes the reader to the page they asked for, also where Streamlit forgets that they did."""

from __future__ import annotations

from app.components.own import component

HTML = "<span hidden></span>"


def keep_page_change() -> None:
    """Put the keeper on the page; it shows nothing."""
    import streamlit as st

    with st.container(key="rw_page_change"):
        component("page_change", HTML)(key="page_change")
