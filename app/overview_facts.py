"""What stands out in a run, found in the background: seconds on a large trace, and the first thing everybody asks."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING

from app.later import later
from app.trace_file import TraceFile, identify, shown_first

if TYPE_CHECKING:
    from probes.findings import Finding

ROWS = 160_000  # (token, layer) rows read for what stands out
DRAWS = 400  # resamples and permutations: ends of intervals to about a twentieth of their width


def facts(trace: TraceFile, run_id: int) -> Future[tuple[list[Finding], int]]:
    """The facts with intervals, and how many of the run's sequences were read for them; perhaps not there yet."""
    return later.ask(("facts", trace, run_id), partial(_find, trace, run_id))


def ahead(paths: Sequence[str]) -> None:
    """Ask for those of the run that is shown first, before somebody looks."""
    from store.trace import open_trace

    for path in paths[:1]:
        runs = open_trace(path).runs()
        if len(runs):
            first = shown_first(runs.to_dict("records"))
            if first["status"] == "complete":
                facts(identify(path), int(first["run_id"]))


def _find(trace: TraceFile, run_id: int) -> tuple[list[Finding], int]:
    from probes.findings import overview
    from store.trace import open_trace

    opened = open_trace(trace.path)
    layers = int(opened.layers(run_id)["is_moe"].sum())
    drawn = opened.drawn(run_id, max(1, ROWS // max(1, layers)))["sequence_id"].tolist()
    few = drawn if len(drawn) < int(opened.run(run_id)["n_sequences"]) else None
    return overview(opened, run_id, DRAWS, DRAWS, sequences=few), len(drawn)
