"""Every metric as a pure function over arrays: `probes.metrics.load(experts, num_experts=8)` -> DataFrame.

One file per metric; a file with a `METRIC` in this folder is a metric everywhere: here, in `probe analyze`, in
docs/metrics.md and in the dashboard. The modules are imported at once, so that `probes.metrics.<name>` is always the
function and never the module of the same name.
"""

from __future__ import annotations

from probes.metrics.counts import from_counts
from probes.metrics.function import make_function as _make_function
from probes.metrics.registry import Column, Metric, Option, discover, get

globals().update({name: _make_function(metric) for name, metric in discover().items()})

__all__ = ["Column", "Metric", "Option", "discover", "from_counts", "get", *discover()]
