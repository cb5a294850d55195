"""Streamlit with the heavy libraries already on their way: the first visitor does not wait for their import.

`python -m app.launch run SCRIPT …` takes Streamlit's own command line.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import sys
import threading
from collections.abc import Sequence

# Before anything runs beside it: Plotly looks for a pandas that is there, and one that is half there breaks it.
FIRST = ("pandas", "plotly.graph_objects")
# Nothing that declares a Streamlit cache: caches want the running server.
HEAVY = ("duckdb", "store.trace", "app.charts", "probes.sampling")
LATER = ("scipy.cluster.hierarchy", "scipy.spatial.distance")  # of single pages
METRICS = ("srp", "sch", "cache_hit_rate", "cross_layer")  # whose compiled parts take a second to load


def prepare(words: Sequence[str]) -> None:
    """Everything that can be done before somebody looks, what all pages need first. `words`: of the command line."""
    warm()
    _keep()
    first_answers(words)


def warm() -> None:
    """Import what every page needs and make the first figure: about a second that nobody has to sit through."""
    for name in HEAVY:
        importlib.import_module(name)
    from app.palette import expert_colors
    from app.theme import template

    expert_colors()
    for theme in ("light", "dark"):
        template(theme)
    for name in LATER:
        importlib.import_module(name)
    _load_kernels()


def _load_kernels() -> None:
    """Two tokens through the metrics that are compiled, so that their code is in memory when a page asks."""
    import numpy as np

    from probes import metrics

    experts = np.zeros((2, 2, 1), np.int16)
    for name in METRICS:
        getattr(metrics, name)(experts=experts, num_experts=2, sequence_id=np.zeros(2, np.int64))


def _keep() -> None:
    """What is loaded now stays. Streamlit collects garbage after every run, before the browser hears the end of it:
    a tenth of a second each time, were all of this gone through again."""
    gc.collect()
    gc.freeze()


def first_answers(words: Sequence[str]) -> None:
    """What the first page says of the first trace. A trace that cannot be read is the page's to explain."""
    from app.options import given
    from app.overview_facts import ahead
    from store.errors import TraceError

    with contextlib.suppress(TraceError, OSError):
        ahead(given(words[words.index("--") + 1 :] if "--" in words else []).traces)


def main() -> None:
    for name in FIRST:
        importlib.import_module(name)
    from streamlit.web import cli

    # The words as they are now: Streamlit makes the script's own of them.
    threading.Thread(target=prepare, args=(list(sys.argv),), daemon=True).start()
    sys.argv[0] = "streamlit"
    cli.main()


if __name__ == "__main__":
    main()
