"""Runs the page again when the reader switches between light and dark."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

CSS = """
.patch { width: 1px; height: 1px; background-color: var(--st-background-color); transition: background-color 1ms; }
"""


def watch_theme() -> None:
    """Put the watcher on the page; it shows nothing."""
    _component()(key="theme_watch", height=1, on_changed_change=lambda: None)


@lru_cache(maxsize=1)
def _component() -> Any:
    import streamlit as st

    return st.components.v2.component(
        "router_workbench_theme_watch",
        html='<div class="patch" aria-hidden="true"></div>',
        css=CSS,
        js=(Path(__file__).parent / "theme_watch.js").read_text("utf-8"),
    )
