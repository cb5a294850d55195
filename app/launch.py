"""Streamlit with the heavy libraries already on their way: the first visitor does not wait for their import.

`python -m app.launch run SCRIPT …` takes Streamlit's own command line.
"""

from __future__ import annotations

import importlib
import sys
import threading

# Nothing that declares a Streamlit cache: caches want the running server.
HEAVY = ("pandas", "duckdb", "plotly.graph_objects", "store.trace", "app.charts")


def warm() -> None:
    """Import what every page needs and make the first figure: about a second that nobody has to sit through."""
    for name in HEAVY:
        importlib.import_module(name)
    from app.palette import expert_colors
    from app.theme import template

    expert_colors()
    for theme in ("light", "dark"):
        template(theme)


def main() -> None:
    threading.Thread(target=warm, daemon=True).start()
    from streamlit.web import cli

    sys.argv[0] = "streamlit"
    cli.main()


if __name__ == "__main__":
    main()
