"""Runs the page again when the reader switches between light and dark."""

from __future__ import annotations

from app.components.own import component

HTML = '<div class="patch" aria-hidden="true"></div>'


def watch_theme() -> None:
    """Put the watcher on the page; it shows nothing."""
    component("theme_watch", HTML)(key="theme_watch", height=1, on_changed_change=lambda: None)
