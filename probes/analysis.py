"""Ask a metric of a trace: stream its routing through `count`, or start from the sums stored with it.

analyze("trace.duckdb", "load", by="label", ci=True)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from probes import parsing
from probes.errors import UsageError
from probes.metrics import discover, get
from probes.metrics.bootstrap import SEED
from probes.metrics.permutation import PERMUTATIONS, Permuted, with_noise
from probes.metrics.registry import Column, Metric
from probes.metrics.run import check_by, run
from probes.sources import PairedSource, RunsSource, TaggedSource, TraceSource, layers_of, opened, second_source

if TYPE_CHECKING:
    import pandas as pd

MOST_RESAMPLES = 1_000_000  # all are held at once
PAIR = ("against", "against_trace")
COMMON_COLUMNS = (
    Column("label", "name", "label of the sequences; null = those without one"),
    Column("token", "name", "token text, or its id where the trace has no text"),
    Column("p", "probability", "of a difference as large between labels dealt out at random over the sequences", 0, 1),
    Column(
        "q", "probability", "Benjamini–Hochberg false-discovery rate over all rows; up to 0.05 is more than noise", 0, 1
    ),
    Column("ci_low", "as the value", "lower end of the 95 % bootstrap interval over sequences"),
    Column("ci_high", "as the value", "upper end of the 95 % bootstrap interval over sequences"),
)


def analyze(
    trace: Any,
    metric: str,
    run_id: int | None = None,
    layers: Any = None,
    by: str | None = None,
    test: bool = False,
    sequences: Sequence[int] | None = None,
    **params: Any,
) -> pd.DataFrame:
    """The table of one metric over one run of a trace (a path or an open trace).

    layers: the model's own indices, as a sequence or as text ("0-7,12"). by: what to group by ("label"). test: add p
    and q of differences between labels (labels dealt out anew among the sequences). sequences: read only those with
    these numbers (`probes.sampling` draws some); the stored sums, which are of the whole run, are then left alone.
    params: the metric's own options; ci, resamples, seed; for a metric that compares two runs against (a run id) and
    against_trace. Raises UsageError for a wrong name or value, ProbeError where the trace lacks what the metric needs.
    `attrs` of the result hold metric, params, run_id and columns.
    """
    asked = Asked.of(metric, layers=layers, by=by, test=test, **params)
    if run_id is not None:
        parsing.whole(run_id, "--run", 1)
    opened_trace = opened(trace)
    with opened_trace.held():
        source = TraceSource(opened_trace, run_id, layers, sequences)
    frame = asked.table(source)
    chosen = {} if sequences is None else {"sequences": source.sequences}
    frame.attrs = {
        "metric": asked.metric.name,
        "params": asked.params() | chosen,
        "run_id": source.run_id,
        "columns": [_described(asked.metric, name) for name in frame.columns],
        "basis": asked.basis(source),
    }
    return frame


@dataclasses.dataclass(frozen=True)
class Asked:
    """A metric with all that was asked of it. pair: the run to compare with; common: ci, resamples, seed."""

    metric: Metric
    options: Mapping[str, Any]
    layers: Any
    by: str | None
    test: bool
    pair: Mapping[str, Any]
    common: Mapping[str, Any]

    @classmethod
    def of(cls, metric: str, layers: Any = None, by: str | None = None, test: bool = False, **params: Any) -> Asked:
        """As `analyze` takes it. Raises UsageError for a wrong name or value."""
        declared = get(metric)
        common: dict[str, Any] = {name: params.pop(name) for name in ("ci", "resamples", "seed") if name in params}
        _judged(common, by, layers, declared)
        pair = {name: params.pop(name, None) for name in PAIR if declared.paired or declared.across}
        if pair.get("against") is not None:
            parsing.whole(pair["against"], "--against", 1)
        return cls(declared, declared.checked(params), layers, by, test, pair, common)

    def params(self) -> dict[str, Any]:
        """All of it, as the `attrs` of a table and a saved result say it."""
        # An open trace by its place: tables are copied and kept, and an open file cannot be.
        pair = {name: str(getattr(value, "path", value)) if name == "against_trace" and value is not None else value
                for name, value in self.pair.items()}  # fmt: skip
        return _params(self.options, {"by": self.by, "layers": self.layers, "test": self.test, **pair}, self.common)

    def basis(self, source: TraceSource) -> dict[str, Any]:
        """What a table over this source rests on: the state of its runs, and the code. JSON-able."""
        from probes.metrics.code import code_fingerprint

        paired = self.metric.paired or any(value is not None for value in self.pair.values())
        others = [second_source(source, **self.pair)] if paired else []
        return {"code": code_fingerprint(self.metric), "runs": [one.state for one in (source, *others)]}

    def table(self, source: TraceSource) -> pd.DataFrame:
        """The metric's table over a source."""
        source.asked = (self.metric, self.options)
        named = [self.options[name] for name in self.metric.tags]
        if tags := [name for name in named if "=" in name and name not in source.label_names]:
            source = TaggedSource(source, named, tags)
        if self.metric.paired:
            source = PairedSource(source, second_source(source, **self.pair))
        elif any(value is not None for value in self.pair.values()):
            source = RunsSource(source, second_source(source, **self.pair))
        frame = run(self.metric, source, self.options, by=self.by, **self.common)
        seed = self.common.get("seed", SEED)
        return _tested(frame, self.metric, source, self.options, seed) if self.test else frame


def _judged(common: Mapping[str, Any], by: str | None, layers: Any, declared: Metric) -> None:
    """UsageError for what no trace could make right, before one is opened."""
    parsing.whole(common.get("resamples", 1), "--resamples", 1, MOST_RESAMPLES)
    parsing.whole(common.get("seed", 0), "--seed")
    if layers is not None:
        layers_of(layers)
    if by is not None:
        check_by(declared, by)


def _tested(
    frame: pd.DataFrame, metric: Metric, source: TraceSource, options: Mapping[str, Any], seed: int
) -> pd.DataFrame:
    names = metric.compares(dict(options), source.label_names) if metric.compares else None
    if names is None:
        raise UsageError(f"{metric.name} has no --test with these options: it compares no labels")
    test = noise_test(source, names, seed=seed)
    for arrays in source.chunks(()):
        test.feed(arrays)
    return with_noise(frame, test, names, source.about.layers)


def noise_test(
    source: TraceSource, names: tuple[str, ...], permutations: int = PERMUTATIONS, seed: int = SEED
) -> Permuted:
    """The permutation test of the labels `names` of a run, ready to be fed its chunks."""
    codes, place = source.sequence_codes(), [source.label_names.index(name) for name in names]
    ours = np.select([codes == code for code in place], range(len(place)), -1)
    return Permuted(ours, len(names), (source.about.num_layers, source.about.num_experts), permutations, seed)


def save(trace: Any, frame: pd.DataFrame) -> int:
    """Keeps an analysed table in the trace it came from and returns its number in the view `results`.

    The same metric with the same options over the same run is replaced. Raises TraceError where the trace cannot be
    written.
    """
    from probes.metrics.render import as_object
    from store.results import save_result

    table = as_object(frame)
    return save_result(opened(trace), definition=_definition(table["metric"]), basis=frame.attrs.get("basis"), **table)


def _definition(name: str) -> dict[str, str]:
    if name not in discover():
        return {"question": "What would one look for first?", "formula": "see the command of each row", "source": ""}
    return {part: str(getattr(get(name), part)) for part in ("question", "formula", "source")}


def _params(options: Mapping[str, Any], where: dict[str, Any], common: Mapping[str, Any]) -> dict[str, Any]:
    said = {**where, "layers": None if where["layers"] is None else layers_of(where["layers"]), **common}
    return {**options, **{name: value for name, value in said.items() if value not in (None, False)}}


def _described(metric: Metric, name: str) -> dict[str, str]:
    found = next((c for c in (*metric.columns, *COMMON_COLUMNS) if c.name == name), None)
    column = found or Column(name, "", "")
    return {"name": name, "unit": column.unit, "description": column.description}
