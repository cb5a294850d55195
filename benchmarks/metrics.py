"""How fast are the metrics? Against the obvious NumPy version of each definition, which must give the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks import plain_metrics
from benchmarks.results import Section, Table, ratio_row
from benchmarks.scale import Scale
from benchmarks.storage import made_batches, write
from benchmarks.timing import Timings, interleave, plain
from probes import metrics
from probes.analysis import analyze
from probes.metrics.registry import discover
from store.trace import open_trace

CACHE_SIZES = (8, 16, 32)
METHOD = """\
Each metric and a plain NumPy version of its definition (`benchmarks/plain_metrics.py`) run in the same rounds on
the same routing and are compared number by number before the clock starts. SRP and SCH work on arrays in memory;
load, nPMI and co-activation are asked of a trace, where the metric reads the sums kept while recording and the
plain version every row."""


def measure(scale: Scale) -> Section:
    """The metrics section."""
    section = Section("metrics", "Metrics against plain NumPy", METHOD)
    section.tables += [_segments(scale), _caches(scale)]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.duckdb"
        write(list(made_batches(scale.shape, scale.metric_tokens, None, False)), scale.shape, path)
        section.tables.append(_stored(path, scale))
    section.notes.append("Compiled kernels are warm: the first call of all is not counted.")
    return section


def _routing(scale: Scale, total: int) -> tuple[np.ndarray, np.ndarray]:
    """(experts [T, L, k], sequence_id [T]) of made-up routing."""
    batches = list(made_batches(scale.shape, total, None, False))
    experts = np.concatenate([np.stack([rows.experts for rows in b.layers], axis=1) for b in batches])
    return experts, np.concatenate([b.tokens["sequence_id"] for b in batches])


def _segments(scale: Scale) -> Table:
    experts, sequence = _routing(scale, scale.metric_tokens)
    count = scale.shape.experts

    def ours(m: int) -> Callable[[], Any]:
        return lambda: metrics.srp(experts, sequence, count, segment_length=m).srp.to_numpy()

    def theirs(m: int) -> Callable[[], Any]:
        return lambda: plain_metrics.srp(experts, sequence, count, m)

    return _table(
        f"SRP, all levels, {_size(experts, count)}",
        {f"m = {m}": (ours(m), theirs(m)) for m in scale.segment_lengths},
        scale,
    )


def _caches(scale: Scale) -> Table:
    experts, sequence = _routing(scale, scale.cache_tokens)
    count = scale.shape.experts
    sizes = [c for c in CACHE_SIZES if c <= count]

    def ours(m: int) -> Callable[[], Any]:
        options = {"segment_length": m, "cache_size": sizes, "level": "layer"}
        return lambda: metrics.sch(experts, sequence, count, **options).sch.to_numpy()

    def theirs(m: int) -> Callable[[], Any]:
        return lambda: plain_metrics.sch_online(experts, sequence, count, m, sizes)

    title = f"SCH (online, layer level, caches of {', '.join(map(str, sizes))}), {_size(experts, count)}"
    return _table(title, {f"m = {m}": (ours(m), theirs(m)) for m in scale.segment_lengths}, scale)


def _stored(path: Path, scale: Scale) -> Table:
    trace = open_trace(path)
    pairs: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "load": (lambda: _column(path, "load", "count"), lambda: plain_metrics.load(trace)),
        "npmi --target label": (lambda: _column(path, "npmi", "npmi"), lambda: plain_metrics.npmi(trace)),
    }
    if "coactivation" in discover():
        pairs["coactivation"] = (
            lambda: _column(path, "coactivation", "n_ij"),
            lambda: plain_metrics.coactivation(trace),
        )
    run = trace.run()
    title = f"From a trace of {run['n_tokens']:,} tokens, {scale.shape.layers} layers, eight labels"
    return _table(title, pairs, scale)


def _column(path: Path, metric: str, column: str) -> np.ndarray:
    return analyze(path, metric)[column].to_numpy(dtype=np.float64, na_value=np.nan)


def _table(title: str, pairs: dict[str, tuple[Callable[[], Any], Callable[[], Any]]], scale: Scale) -> Table:
    rows = []
    for name, (ours, theirs) in pairs.items():
        np.testing.assert_allclose(np.sort(ours()), np.sort(theirs()), rtol=1e-12, atol=1e-12)
        timings = interleave({"ours": plain(ours), "plain": plain(theirs)}, scale.metric_rounds, warm=0)
        rows.append(ratio_row(name, timings, "ours", "plain", note=_said(timings), unit="x plain NumPy"))
    return Table(title, rows)


def _said(timings: Timings) -> str:
    ours, theirs = timings.time("ours").median, timings.time("plain").median
    return f"{1e3 * ours:,.1f} ms against {1e3 * theirs:,.1f} ms"


def _size(experts: np.ndarray, count: int) -> str:
    tokens, layers, k = experts.shape
    return f"{tokens:,} tokens, {layers} layers, {count} experts, top-{k}"
