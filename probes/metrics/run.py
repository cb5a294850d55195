"""From a source of routing to a metric's table: stream, count, pool, resample, then take ratios once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from probes.errors import ProbeError, UsageError, unknown
from probes.metrics.bootstrap import RESAMPLES, SEED, Resampled, interval
from probes.metrics.chunk import About, Chunk, add_counts, cut, sequence_starts
from probes.metrics.registry import Counts, Metric, Options
from probes.metrics.token_draws import TokenDraws
from probes.metrics.vocabulary import Vocabulary
from probes.routing import RoutingArrays

if TYPE_CHECKING:
    import pandas as pd


SEQUENCE_CELLS = 48_000_000
TOKENS = {"token": ("token?", "token_id?"), "predicted": ("predicted_id",), "next": ("token?", "token_id?")}


Listener = Callable[[RoutingArrays], None]


class Source(Protocol):
    """Where routing comes from: arrays in memory, or a trace on disk."""

    about: About
    label_names: tuple[str, ...]
    n_sequences: int

    def chunks(self, needs: tuple[str, ...]) -> Iterator[RoutingArrays]:
        """Whole sequences at a time, in order, with the arrays named in `needs` beside `experts`."""
        ...

    def aggregates(self) -> Mapping[str, Any] | None:
        """The additive sums stored with a trace, or None."""
        ...


def run(
    metric: Metric,
    source: Source,
    given: Mapping[str, Any],
    by: str | None = None,
    ci: bool = False,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> pd.DataFrame:
    """The metric's table over a source. `given`: its options; `by`: what to group by; `ci`: add bootstrap intervals."""
    options = metric.checked(given)
    about = _about(metric, source, options, by)
    if metric.check is not None:
        metric.check(options, about)
    tokens = about.by in TOKENS
    if ci and ((metric.token_intervals is None or about.split) if tokens else metric.estimate is None):
        raise UsageError(f"{metric.name} has no --ci here: it is not a ratio of counts per sequence")
    if not ci and (stored := _from_aggregates(metric, source, options, about)) is not None:
        return finish(metric, stored, options, about)
    passes = _Pass(
        metric,
        source,
        Resampled(source.n_sequences, resamples, seed, metric.draws is not None) if ci and not tokens else None,
    )
    if ci and tokens:
        first = options.get("top") == "1"
        passes.draws = TokenDraws(source.n_sequences, resamples, seed, source.about.num_experts, first)
    counts = passes.go(options, about)
    if passes.draws is not None:
        return _with_token_intervals(metric, passes.draws, counts, options, passes.about)
    if metric.second is not None and (again := metric.second(counts, options, passes.about)) is not None:
        passes.resampled = Resampled(source.n_sequences, resamples, seed, metric.draws is not None) if ci else None
        counts, options = passes.go(again, about), again
    return finish(metric, counts, options, passes.about, passes.resampled)


def _with_token_intervals(
    metric: Metric, draws: TokenDraws, counts: Counts, options: Options, about: About
) -> pd.DataFrame:
    assert metric.token_intervals is not None
    draws.finish()
    frame = metric.table(counts, options, about)
    low, high = metric.token_intervals(draws, counts, options, about)
    return frame.assign(ci_low=low[frame.index], ci_high=high[frame.index]).reset_index(drop=True)


def check_by(metric: Metric, by: str | None) -> None:
    """UsageError for a grouping that the metric does not have."""
    if by is not None and by not in metric.by:
        raise (
            unknown("grouping for --by", str(by), metric.by) if metric.by else UsageError(f"{metric.name} has no --by")
        )


def _about(metric: Metric, source: Source, options: Options, by: str | None) -> About:
    own = metric.groups(options)
    check_by(metric, by)
    split = by == "label" and own in TOKENS
    if by is not None and own not in (None, by) and not split:
        raise UsageError(f"{metric.name} groups by {own} here, so it cannot also go --by {by}")
    kind = own or by
    if "label" in (kind, by) and not source.label_names:
        raise ProbeError("the sequences have no labels to compare: record prompts with a label, or import `label`")
    labels = (*source.label_names, None)
    groups = labels if kind == "label" else (None,)
    return replace(source.about, by=kind, groups=groups, split=labels if split else ())


def _from_aggregates(metric: Metric, source: Source, options: Options, about: About) -> Counts | None:
    if metric.aggregates is None:
        return None
    stored = source.aggregates()
    return None if stored is None else metric.aggregates(stored, options, about)


def run_many(
    asked: Sequence[tuple[Metric, Mapping[str, Any]]],
    source: Source,
    listen: Sequence[Listener] = (),
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> list[pd.DataFrame]:
    """The tables of several metrics, with intervals where they have them, from one reading of the source.

    `listen`: called with each chunk of whole sequences too. Metrics that need two passes are refused.
    """
    passes = []
    for metric, given in asked:
        options = metric.checked(given)
        resampled = (
            None
            if metric.estimate is None
            else Resampled(source.n_sequences, resamples, seed, metric.draws is not None)
        )
        about = _about(metric, source, options, None)
        if metric.check is not None:
            metric.check(options, about)
        passes.append(_Pass(metric, source, resampled))
        passes[-1].begin(options, about)
    needs = tuple(dict.fromkeys(name for p in passes for name in p.needs()))
    for arrays in source.chunks(needs):
        for each in (*listen, *(p.feed for p in passes)):
            each(arrays)
    return [_finished(p) for p in passes]


def _finished(done: _Pass) -> pd.DataFrame:
    counts = done.end()
    if done.metric.second is not None and done.metric.second(counts, done.options, done.about) is not None:
        raise UsageError(f"{done.metric.name} reads the source twice with these options: run it by itself")
    return finish(done.metric, counts, done.options, done.about, done.resampled)


class _Pass:
    """One reading of the source; remembers the groups it met and, where asked, every resample's sums."""

    def __init__(self, metric: Metric, source: Source, resampled: Resampled | None) -> None:
        self.metric, self.source, self.resampled = metric, source, resampled
        self.draws: TokenDraws | None = None

    def go(self, options: Options, about: About) -> Counts:
        self.begin(options, about)
        for arrays in self.source.chunks(self.needs()):
            self.feed(arrays)
        return self.end()

    def begin(self, options: Options, about: About) -> None:
        self.options, self.about, self.vocabulary = options, about, Vocabulary()
        self.pairs = Vocabulary()
        self.state: dict[str, Any] = {}
        self.total: Counts | None = None

    def feed(self, arrays: RoutingArrays) -> None:
        merge = self.metric.merge or add_counts
        for block in self._blocks(arrays):
            counts = self._count(block, self.options, self.total)
            self.total = counts if self.total is None else merge(self.total, counts)

    def end(self) -> Counts:
        if self.total is None:
            raise ProbeError("there are no tokens to look at: the run (or the chosen layers) is empty")
        if self.about.by in TOKENS:
            self.about = replace(self.about, groups=self._names())
        return self.total

    def _names(self) -> tuple[Any, ...]:
        names = self.vocabulary.names()
        return tuple((label, names[code]) for label, code in self.pairs.entries()) if self.about.split else names

    def _blocks(self, arrays: RoutingArrays) -> Iterator[RoutingArrays]:
        """The chunk; while resampling, cut so that the counts of single sequences fit into memory."""
        if self.resampled is None or self.metric.cells is None:
            yield arrays
            return
        size = max(1, SEQUENCE_CELLS // self.metric.cells(self.options, self.about))
        starts = sequence_starts(arrays.sequence_id)
        for first in range(0, len(starts) - 1, size):
            last = min(first + size, len(starts) - 1)
            yield cut(arrays, int(starts[first]), int(starts[last]))

    def needs(self) -> tuple[str, ...]:
        grouping = {"label": ("label",), "predicted": ("predicted_id",), None: ()}.get(self.about.by, TOKENS["token"])
        labels = ("label",) if self.about.split else ()
        return tuple(dict.fromkeys((*self.metric.needed(self.options), *grouping, *labels)))

    def _count(self, arrays: RoutingArrays, options: Options, so_far: Counts | None) -> Counts:
        starts = sequence_starts(arrays.sequence_id)
        group, n_groups = self._groups(arrays, starts)
        if self.resampled is None:
            chunk = Chunk(arrays, starts, group, n_groups, self.about, so_far, self.state)
            if self.draws is not None:
                self.draws.add(chunk)
            return self._counted(chunk, options)
        sequences = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        chunk = Chunk(arrays, starts, sequences, len(starts) - 1, self.about, so_far, self.state, group)
        each, rows = self._counted(chunk, options), group[starts[:-1]]
        listed = {key: each.pop(key) for key in list(each) if key.startswith("_")}
        if any(key.startswith("max_") for key in each):
            raise UsageError(f"{self.metric.name} has no --ci for a maximum")
        if any(key.startswith("same_") for key in each):
            raise UsageError(
                f"{self.metric.name} has no --ci here: the outputs' moments are kept for the whole run only"
            )
        self.resampled.add(each, rows, n_groups)
        return listed | {key: _fold(values, rows, n_groups) for key, values in each.items()}

    def _groups(self, arrays: RoutingArrays, starts: np.ndarray) -> tuple[np.ndarray, int]:
        tokens = len(arrays.sequence_id)
        if self.about.by in TOKENS:
            codes = self.vocabulary.targets(arrays, starts, self.about.by)
            return self._by_label(arrays, codes) if self.about.split else (codes, len(self.vocabulary))
        if len(self.about.groups) == 1:
            return np.zeros(tokens, np.int64), 1
        labels = np.full(tokens, -1) if arrays.label is None else np.asarray(arrays.label)
        return np.where(labels < 0, len(self.about.groups) - 1, labels).astype(np.int64), len(self.about.groups)

    def _by_label(self, arrays: RoutingArrays, codes: np.ndarray) -> tuple[np.ndarray, int]:
        """Every pair of label and token as a group of its own."""
        labels = np.full(len(codes), -1) if arrays.label is None else np.asarray(arrays.label)
        labels = np.where(labels < 0, len(self.about.split) - 1, labels)
        kept, groups = np.flatnonzero(codes >= 0), np.full(len(codes), -1)
        entries, inverse = np.unique(np.stack([labels[kept], codes[kept]]), axis=1, return_inverse=True)
        pairs = [tuple(pair) for pair in entries.T.tolist()]
        groups[kept] = self.pairs.codes_of((pairs, inverse))
        return groups, len(self.pairs)

    def _counted(self, chunk: Chunk, options: Options) -> Counts:
        counts = self.metric.count(chunk, options)
        if "n_tokens" not in counts:
            counts["n_tokens"] = _tokens_with_routing(chunk)
        counts["seen"] = np.bincount(chunk.group[chunk.group >= 0], minlength=chunk.n_groups)
        return counts


def _tokens_with_routing(chunk: Chunk) -> np.ndarray:
    routed = chunk.routed & (chunk.group >= 0)[:, None]
    each = [np.bincount(chunk.group[routed[:, i]], minlength=chunk.n_groups) for i in range(routed.shape[1])]
    return np.stack(each, axis=1)


def _fold(values: np.ndarray, rows: np.ndarray, n_groups: int) -> np.ndarray:
    out = np.zeros((n_groups, *values.shape[1:]), values.dtype)
    for g in np.unique(rows):
        out[g] = values[rows == g].sum(axis=0)
    return out


def finish(
    metric: Metric, counts: Counts, options: Options, about: About, resampled: Resampled | None = None
) -> pd.DataFrame:
    """The table of pooled counts, with `ci_low` and `ci_high` where resamples were kept; groups without tokens go."""
    if about.split:
        return _by_label(metric, counts, options, about)
    counts, about, kept = _drop_empty(counts, about)
    frame = metric.table(counts, options, about)
    if resampled is not None and metric.estimate is not None:
        value = np.asarray(metric.estimate(counts, options, about)).ravel()
        draws = _draws(metric, resampled, options, about, kept, value.size)
        low, high = interval(value, draws)
        frame["ci_low"], frame["ci_high"] = low[frame.index], high[frame.index]
    return frame.reset_index(drop=True)


def _by_label(metric: Metric, counts: Counts, options: Options, about: About) -> pd.DataFrame:
    """The table of every label, one after the other."""
    import pandas as pd

    label = np.array([group[0] for group in about.groups])
    frames = []
    for code, name in enumerate(about.split):
        mine = np.flatnonzero(label == code)
        if len(mine):
            own = replace(about, groups=tuple(about.groups[i][1] for i in mine), split=())
            frame = metric.table({key: values[mine] for key, values in counts.items()}, options, own)
            frame.insert(0, "label", np.full(len(frame), name, object))
            frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def _draws(
    metric: Metric, resampled: Resampled, options: Options, about: About, kept: list[int] | None, rows: int
) -> np.ndarray:
    groups = slice(None) if kept is None else kept
    if metric.draws is not None:
        return metric.draws(resampled.sums, groups, options, about)
    estimate = metric.estimate
    assert estimate is not None
    return resampled.estimates(lambda counts: estimate(counts, options, about), groups, rows)


def _drop_empty(counts: Counts, about: About) -> tuple[Counts, About, list[int] | None]:
    """Leaves out the row of sequences without a label when there are none: it is no group of its own."""
    if about.by != "label" or np.asarray(counts["seen"])[-1] > 0:
        return counts, about, None
    kept = list(range(len(about.groups) - 1))
    left = {k: v[:-1] if _per_group(k, v, about) else v for k, v in counts.items()}
    return left, replace(about, groups=about.groups[:-1]), kept


def _per_group(key: str, values: Any, about: About) -> bool:
    return isinstance(values, np.ndarray) and not key.startswith("same_") and len(values) == len(about.groups)
