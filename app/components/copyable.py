"""A command or a file's text on a page, to be copied. Streamlit's own loads a highlighter as large as a page."""

from __future__ import annotations

from app.components.own import component

HTML = '<div class="copyable"><pre><code></code></pre><button type="button">Copy</button></div>'


def copyable(text: str, key: str) -> None:
    """The text as it is, lines wrapped, with a button that copies it."""
    # A doubled underline is a delimiter of Streamlit's own, and a key may have a random name in it.
    component("copyable", HTML)(key=key.replace("_", "-"), data=text)
