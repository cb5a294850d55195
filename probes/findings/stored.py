"""The facts that the sums stored with a trace are enough for: at once, however long the recording."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from probes.findings import facts
from probes.findings.finding import Finding, command_about
from probes.metrics import get
from probes.metrics.run import run
from probes.sources import TraceSource
from store import finding_queries

if TYPE_CHECKING:
    import pandas as pd


class Stored(TraceSource):
    """One run, with its stored sums read once."""

    @cached_property
    def sums(self) -> dict[str, Any]:
        """What `aggregates` of the trace returns."""
        return self.trace.aggregates(self.run_id)

    @cached_property
    def where(self) -> str:
        """The trace as commands name it."""
        return command_about(self.trace, self.run_id)

    def aggregates(self) -> Mapping[str, Any]:
        seen = (self.sums["tokens"] + self.sums["missing"]).max(axis=0)
        return {**self.sums, "seen": seen, "sizes": self.sizes}

    @property
    def share(self) -> float:
        """Part of the run's sequences that is read."""
        return self.n_sequences / int(self.run["n_sequences"])

    @property
    def comparable(self) -> bool:
        """At least two labels have tokens."""
        named = len(self.label_names)
        return int((self.sums["tokens"][:, :named].sum(axis=0) > 0).sum()) >= 2

    def table(self, metric: str, **options: Any) -> pd.DataFrame:
        """The metric's table from the stored sums."""
        return run(get(metric), self, options)


def findings(trace: Any, run_id: int | None = None) -> list[Finding]:
    """The facts of one run that its stored sums tell; those that it cannot support are left out."""
    at = Stored(trace, run_id)
    if not at.sums["count"].any():
        return []
    return list(_facts(at))


def _facts(at: Stored) -> Iterator[Finding]:
    load = at.table("load")
    if at.comparable:
        yield from facts.label_experts(at.table("npmi"), at.where)
        yield from facts.distances(at.table("dataset_distance"), at.where)
    yield from facts.busiest(load, at.where)
    yield from facts.dead(load, at.where)
    yield from facts.certainty(entropy(at), at.about.num_experts, at.where)
    if (pair := facts.strongest_pair(at.table("coactivation"))) is not None:
        yield from facts.together(pair, at.where)
    yield from outputs(at)


def entropy(at: Stored) -> pd.DataFrame:
    """layer, entropy_mean in nats and n_tokens, without intervals."""
    import pandas as pd

    known = at.sums["n_entropy"].sum(axis=-1)
    mean = np.divide(at.sums["sum_entropy"].sum(axis=-1), known, out=np.full(len(known), np.nan), where=known > 0)
    return pd.DataFrame({"layer": at.about.layers, "entropy_mean": mean, "n_tokens": known})


def outputs(at: Stored) -> Iterator[Finding]:
    """Super experts from the stored maxima, by the metric's own rule."""
    frame = stored_maxima(at)
    if frame is not None:
        where = f"{at.where} --kind routed" if any(at.about.shared_experts) else at.where
        yield from facts.largest_outputs(frame, where, _token(at, frame))


def stored_maxima(at: Stored) -> pd.DataFrame | None:
    """The table of super_experts from the stored maxima, but for the tokens' text; None where no maxima were kept."""
    largest = np.where(at.sums["count"] > 0, at.sums["max_abs_output"], np.nan)
    if np.isnan(largest).all():
        return None
    group = np.argmax(np.nan_to_num(largest, nan=-1.0), axis=-1)[..., None]
    kept = {"largest": largest, "sequence": at.sums["max_output_sequence_id"]}
    kept["position"] = at.sums["max_output_position"]
    counts = {name: np.take_along_axis(v, group, axis=-1)[None, ..., 0] for name, v in kept.items()}
    counts["max_input"] = np.fmax.reduce(at.sums["max_abs_input"], axis=-1)[None]
    counts["max_massive"] = np.full(counts["largest"].shape[:2], np.nan)  # of every token: no stored sum has it
    # One place more, for the layer's shared expert, which no stored sum knows.
    counts |= {name: _with_one_more(counts[name], np.nan) for name in ("largest", "max_input")}
    counts |= {name: _with_one_more(counts[name], -1) for name in ("sequence", "position")}
    counts |= {"token": np.full(counts["largest"].shape, None, object)}
    counts |= {"n_tokens": at.sums["tokens"].sum(axis=-1)[None], "seen": at.aggregates()["seen"].sum(keepdims=True)}
    metric = get("super_experts")
    return metric.table(counts, metric.checked({"kind": "routed"}), at.about).reset_index(drop=True)


def _with_one_more(values: np.ndarray, unknown: float) -> np.ndarray:
    return np.concatenate([values, np.full((*values.shape[:-1], 1), unknown)], axis=-1)


def _token(at: Stored, frame: pd.DataFrame) -> str | None:
    """The text of the token behind the largest output."""
    row = frame.loc[frame["max_abs_output"].idxmax()]
    if row["sequence_id"] is None or row["sequence_id"] != row["sequence_id"]:
        return None
    return finding_queries.token_text(at.trace, at.run_id, int(row["sequence_id"]), int(row["position"]))
