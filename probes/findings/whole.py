"""All facts of a run, from reading it once: with intervals over sequences, and with what is within noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Any

from probes.analysis import noise_test
from probes.findings import facts
from probes.findings.finding import FEWEST_SEQUENCES, Finding
from probes.findings.sequences import entropy_intervals, lift_interval, uncertain_tokens
from probes.findings.stored import Stored, entropy, outputs
from probes.metrics import get
from probes.metrics.bootstrap import RESAMPLES, SEED
from probes.metrics.permutation import PERMUTATIONS, Permuted, with_noise
from probes.metrics.registry import Metric
from probes.metrics.run import run_many
from probes.parsing import whole
from probes.sampling import narrowed
from probes.sources import opened

if TYPE_CHECKING:
    import pandas as pd

AHEAD = 16  # tokens: the look-ahead of SCH and the segment of SRP, about a line of text
COLUMNS = {
    "title": ("text", "headline"),
    "text": ("text", "the fact in words, with its numbers"),
    "value": ("see unit", "main number of the fact"),
    "ci_low": ("see unit", "lower end of the 95 % bootstrap interval over sequences"),
    "ci_high": ("see unit", "upper end of the 95 % bootstrap interval over sequences"),
    "unit": ("name", "unit of value"),
    "n_tokens": ("tokens", "tokens it rests on"),
    "command": ("command", "what shows more"),
}


def overview(
    trace: Any,
    run_id: int | None = None,
    resamples: int = RESAMPLES,
    permutations: int = PERMUTATIONS,
    seed: int = SEED,
    sequences: Sequence[int] | None = None,
) -> list[Finding]:
    """The facts one would look for first, of one run of an open trace; those that it cannot support are left out.

    sequences: read only those. Facts that the stored sums tell stay those of the whole run, with intervals as wide as
    the run's would be; the others are of these sequences, as their n says.

    Intervals are 95 %, basic bootstrap over sequences. Differences between labels are tested by dealing the labels out
    anew among the sequences; what has a Benjamini–Hochberg q above 5 %, over all experts, is called within noise.
    """
    whole(resamples, "--resamples", 1)
    whole(permutations, "--permutations", 1)
    whole(seed, "--seed")
    at = Stored(trace, run_id, None, sequences)
    if not at.sums["count"].any():
        return []
    return list(_Reading(at, resamples, permutations, seed).facts())


def overview_table(trace: Any, run_id: int | None = None, **params: Any) -> pd.DataFrame:
    """The overview as a table, with the `attrs` that every analysed table has."""
    import pandas as pd

    source = opened(trace)
    run = int(source.run(run_id)["run_id"])
    rows = [asdict(found) for found in overview(source, run, **params)]
    frame = pd.DataFrame(rows, columns=list(COLUMNS)).astype({"n_tokens": "Int64"})
    columns = [{"name": name, "unit": unit, "description": text} for name, (unit, text) in COLUMNS.items()]
    assert {f.name for f in fields(Finding)} == set(COLUMNS)
    frame.attrs = {"metric": "overview", "params": params, "run_id": run, "columns": columns}
    return frame


class _Reading:
    """One pass over the run: the metrics' tables by name, and the permutation tests."""

    def __init__(self, at: Stored, resamples: int, permutations: int, seed: int) -> None:
        self.at, self.resamples, self.seed = at, resamples, seed
        self.surely = at.n_sequences >= FEWEST_SEQUENCES
        self.pair = _furthest(at.table("dataset_distance")) if at.comparable else None
        self.tests = self._tests(permutations) if self.surely and at.comparable else {}
        asked = dict(self._asked())
        listen = [test.feed for test in self.tests.values()]
        metrics = [(get(name), options) for name, options in asked.items()]
        tables = run_many(metrics, at, listen, resamples=resamples, seed=seed)
        whole = [self._of_all(table, *one) for table, one in zip(tables, metrics, strict=True)]
        self.tables = dict(zip(asked, map(self._shown, whole), strict=True))

    def _asked(self) -> Iterator[tuple[str, dict[str, Any]]]:
        about, size = self.at.about, min(2 * self.at.about.top_k, self.at.about.num_experts)
        yield "load", {}
        yield "cache_hit_rate", {"level": ("layer",), "cache_size": (size,)}
        yield "sch", {"level": ("layer",), "cache_size": (size,), "segment_length": (AHEAD,)}
        yield "srp", {"level": ("model",), "segment_length": (AHEAD,)}
        if about.num_layers > 1:
            yield "cross_layer", {}
        if about.top_k > 1 and self.at.sums["n_norm"].any():
            yield "norm_vs_gate", {"summary": True}
        if self.pair is not None:
            yield "npmi", {}
            yield "dataset_distance", {}
            yield "risk_difference", dict(zip(("label", "against"), self.pair, strict=True))

    def _tests(self, permutations: int) -> dict[str, Permuted]:
        """npmi: every label against the rest; risk_difference: one label against the other."""
        assert self.pair is not None
        return {
            "npmi": noise_test(self.at, self.at.label_names, permutations, self.seed),
            "risk_difference": noise_test(self.at, self.pair, permutations, self.seed),
        }

    def _of_all(self, table: pd.DataFrame, metric: Metric, options: dict[str, Any]) -> pd.DataFrame:
        """Where only some sequences were read: with the values of the whole run, if the stored sums have them."""
        if self.at.sequences is None or metric.aggregates is None:
            return table
        return narrowed(table, self.at.table(metric.name, **options), metric.value, self.at.share)

    def _shown(self, table: pd.DataFrame) -> pd.DataFrame:
        return table if self.surely else table.drop(columns=["ci_low", "ci_high"], errors="ignore")

    def _tested(self, name: str) -> tuple[pd.DataFrame, str]:
        """The table with its column `q`, and the sentence that says how it was tested."""
        table = self.tables[name]
        if name not in self.tests:
            return table.assign(q=1.0), f" Fewer than {FEWEST_SEQUENCES} sequences are too few to tell from noise."
        test = self.tests[name]
        names = self.at.label_names if name == "npmi" else self.pair or ()
        table = with_noise(table, test, names, self.at.about.layers)
        survive, tested = int((table["q"] <= 0.05).sum()), int(table["q"].notna().sum())
        what = "differences" if name == "risk_difference" else "label–expert pairs"
        sentence = (
            f" {survive:,} of {tested:,} {what} are more than noise (false-discovery rate 5 %, "
            f"{test.permutations:,} permutations of the labels over sequences)."
        )
        if self.at.sequences is not None:
            sentence = f"{sentence[:-2]}, of {self.at.n_sequences:,} of {int(self.at.run['n_sequences']):,} of them)."
        return table, sentence

    def facts(self) -> Iterator[Finding]:
        """In the order in which one would read them."""
        at, tables, about, where = self.at, self.tables, self.at.about, self.at.where
        if self.pair is not None:
            npmi, noise = self._tested("npmi")
            yield from facts.label_experts(npmi, where, noise)
            yield from facts.distances(tables["dataset_distance"], where)
            rd, noise = self._tested("risk_difference")
            yield from facts.separating_experts(rd, self.pair, where, noise)
        yield from facts.busiest(tables["load"], where)
        yield from facts.dead(tables["load"], where)
        yield from facts.certainty(self._entropy(), about.num_experts, where)
        yield from uncertain_tokens(at)
        if (pair := facts.strongest_pair(at.table("coactivation"))) is not None:
            yield from facts.together(self._lift(pair), where)
        if "cross_layer" in tables:
            yield from self._read(facts.next_layer(tables["cross_layer"], about.num_experts, where))
        lru, ahead, fixed = (tables[name] for name in ("cache_hit_rate", "sch", "srp"))
        yield from self._read(facts.cache(lru, ahead, fixed, about.top_k, about.num_experts, where))
        yield from outputs(at)
        if "norm_vs_gate" in tables:
            yield from self._read(facts.norms(tables["norm_vs_gate"], where))

    def _read(self, found: Iterator[Finding]) -> Iterator[Finding]:
        """Facts of the sequences that were read: where those are not all, they say so."""
        for fact in found:
            yield replace(fact, text=fact.text + self._sampled())

    def _sampled(self) -> str:
        if self.at.sequences is None:
            return ""
        return f" Estimated from {self.at.n_sequences:,} of {int(self.at.run['n_sequences']):,} sequences."

    def _entropy(self) -> pd.DataFrame:
        frame = entropy(self.at)
        return entropy_intervals(self.at, frame, self.resamples, self.seed) if self.surely else frame

    def _lift(self, pair: Any) -> Any:
        return lift_interval(self.at, pair, self.resamples, self.seed) if self.surely else pair


def _furthest(distance: pd.DataFrame) -> tuple[str, str] | None:
    """The two labels that load the last layer's experts most differently."""
    last = distance[(distance["layer"] == distance["layer"].max()) & distance["l2"].notna()]
    if not len(last):
        return None
    row = last.loc[last["l2"].idxmax()]
    return str(row["a"]), str(row["b"])
