"""A metric over a bounded number of tokens: as much as someone who looks at a page can wait for.

table, sample = sampled("trace.duckdb", "srp", segment_length=16)
sample.n_sequences, sample.of_sequences           # drawn evenly, whole, the same ones every time
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from probes.analysis import Asked
from probes.sources import TraceSource, opened

if TYPE_CHECKING:
    import pandas as pd

MOST_ROWS = 200_000  # (token, layer) rows read: about a second, logits included
KEYS = ("layer", "next_layer", "expert", "next_expert", "other", "kind", "criterion", "target", "label", "a", "b")
NOISE = ("ci_low", "ci_high", "p", "q")  # how sure a value is
PRECISION = ("ci", "test", "resamples", "seed")  # options that add such columns and leave the values as they are


@dataclass(frozen=True)
class Sample:
    """How much of a run a table rests on.

    values: what its values rest on: "saved" (a table kept in the trace), "sums" (of the whole run, stored with it),
    "all" (the whole run, read) or "sample" (`n_sequences` of it). noise: the same of its intervals and tests, None
    where it has neither.
    """

    values: str
    noise: str | None
    n_sequences: int
    of_sequences: int
    n_tokens: int
    of_tokens: int


class Sampled(NamedTuple):
    """A metric's table, and what it rests on."""

    table: pd.DataFrame
    sample: Sample


def sampled(trace: Any, metric: str, run_id: int | None = None, most_rows: int = MOST_ROWS, **params: Any) -> Sampled:
    """The metric's table with no more than about `most_rows` (token, layer) rows read. params: as `analyze` takes them.

    In this order: a table saved in the trace; the stored sums, where they are enough; the whole run, where it is short;
    whole sequences drawn evenly. Where the sums have the values but not their intervals, these come from the drawn
    sequences, narrower by the root of their share of the run. Raises as `analyze` does.
    """
    asked = Asked.of(metric, **params)
    source = TraceSource(opened(trace), run_id, asked.layers)
    if (kept := _saved(source, asked)) is not None:
        return Sampled(kept, _about(source, "saved", kept))
    most_tokens = max(1, most_rows // source.about.num_layers)
    if int(source.run["n_tokens"]) <= most_tokens:
        table = asked.table(source)
        return Sampled(table, _about(source, "all" if source.passes else "sums", table))
    drawn = source.trace.drawn(source.run_id, most_tokens)
    part = TraceSource(source.trace, source.run_id, asked.layers, drawn["sequence_id"].tolist())
    return _drawn(source, part, asked, int(drawn["n_tokens"].sum()))


def _drawn(whole: TraceSource, part: TraceSource, asked: Asked, n_tokens: int) -> Sampled:
    """The table over the drawn sequences, with the values of the whole run where its sums have them."""
    part.sums_of_all = True
    table = asked.table(part)
    read = bool(part.passes)
    values, noise = ("sample" if read else "sums"), None
    if _has_noise(table):
        noise = "sample"
        exact = _from_sums(part, asked)
        if exact is not None:
            table, values = narrowed(table, exact, asked.metric.value, part.n_sequences / whole.n_sequences), "sums"
    sample = Sample(values, noise, part.n_sequences, whole.n_sequences, n_tokens, int(whole.run["n_tokens"]))
    return Sampled(table, sample)


def _from_sums(part: TraceSource, asked: Asked) -> pd.DataFrame | None:
    """The table without intervals and tests, if the stored sums are enough for it."""
    if asked.metric.aggregates is None:
        return None
    passes = len(part.passes)
    table = replace(asked, test=False, common={}).table(part)
    return table if len(part.passes) == passes else None


def narrowed(table: pd.DataFrame, exact: pd.DataFrame, value: str, share: float) -> pd.DataFrame:
    """The exact table with the noise columns of the sample's, intervals as wide as those of the whole would be."""
    keys = [name for name in KEYS if name in table and name in exact]
    noise = [name for name in NOISE if name in table]
    both = exact.merge(table[[*keys, *noise, value]].rename(columns={value: "_sampled"}), on=keys, how="left")
    for name in set(noise) & {"ci_low", "ci_high"}:
        both[name] = both[value] + (both[name] - both["_sampled"]) * np.sqrt(share)
    return both.drop(columns="_sampled")


def _about(source: TraceSource, basis: str, table: pd.DataFrame) -> Sample:
    n, tokens = source.n_sequences, int(source.run["n_tokens"])
    return Sample(basis, basis if _has_noise(table) else None, n, n, tokens, tokens)


def _has_noise(table: pd.DataFrame) -> bool:
    return bool(set(NOISE) & set(table.columns))


def _saved(source: TraceSource, asked: Asked) -> pd.DataFrame | None:
    """The newest table kept in the trace that answers what is asked; none that rests on other runs or other code."""
    from store.results import saved_results, saved_table

    if source.run.get("finished_at") is None:
        return None
    basis = asked.basis(source)
    wanted = json.loads(json.dumps(asked.params(), default=str))
    for kept in saved_results(source.trace, source.run_id, asked.metric.name):
        if kept["basis"] == basis and _answers(kept["params"], wanted):
            return saved_table(source.trace, kept["result_id"])
    return None


def _answers(kept: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """The same question, with at least the intervals and tests that are wanted."""
    without = [{name: v for name, v in params.items() if name not in PRECISION} for params in (kept, wanted)]
    return without[0] == without[1] and all(kept.get(name) for name in ("ci", "test") if wanted.get(name))
