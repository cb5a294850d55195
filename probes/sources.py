"""Runs of traces as metrics take them: their shape, labels, chunks and stored sums; one run, or two side by side."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from probes import parsing
from probes.errors import ProbeError, UsageError
from probes.metrics.chunk import MOMENTS, WEIGHTS, About, PairedArrays
from probes.metrics.function import PER_EXPERT, PER_TOKEN_LAYER, SCORES
from probes.metrics.registry import LEVELS, Metric
from probes.routing import PER_SLOT, RoutingArrays, packed
from probes.scores import UNKNOWN
from probes.void import cleared, cleared_choice

CHUNK_BYTES = 96 * 2**20
MOST_ROWS = 1_000_000
PER_LAYER = ("experts", "weights", "logits", "output_norm", "output_absmax", "expert_norm", *PER_TOKEN_LAYER)
PER_TOKEN = ("token_id", "predicted_id", "token", "label")


def opened(trace: Any) -> Any:
    """The trace itself, or the one at that path."""
    if hasattr(trace, "chunks"):
        return trace
    from store.trace import open_trace

    return open_trace(parsing.place(trace, "a trace"))


def layers_of(text: Any) -> list[int]:
    """Layer indices from "0-3,7" (or from a sequence of numbers).

    >>> layers_of("0-3,7")
    [0, 1, 2, 3, 7]
    """
    if isinstance(text, str):
        return list(parsing.layers(text) or ())
    return parsing.ranges(text, "layers")


class TraceSource:
    """One run of a trace, as metrics take it: its shape, its labels, its chunks and its stored sums.

    `asked`: for which metric, with which options, so that what is missing can be told from what it is needed for.
    `sequences`: the only ones read, None for all; what is kept for a run as a whole (moments of the outputs) stays that
    of the whole run. `sums_of_all`: whether its stored sums may answer too. `passes`: tokens read, per reading.
    """

    asked: tuple[Metric, Mapping[str, Any]] | None = None
    sums_of_all = False

    def __init__(
        self, trace: Any, run_id: int | None = None, layers: Any = None, sequences: Sequence[int] | None = None
    ) -> None:
        self.trace = trace
        self.run = trace.run(run_id)
        self.run_id = int(self.run["run_id"])
        self.label_names = tuple(trace.label_names(self.run_id))
        self.n_sequences = int(self.run["n_sequences"])
        self.passes: list[int] = []
        self.sequences = None if sequences is None else self._there(sequences)
        every = trace.layers(self.run_id)
        every = every[every["is_moe"].astype(bool)].sort_values("layer")
        rows = every if layers is None else every[every["layer"].isin(_known(layers_of(layers), every["layer"]))]
        self._all = len(rows) == len(every)
        self.position = np.flatnonzero(every["layer"].isin(rows["layer"]))
        self.about = _about(rows, self.run)

    @property
    def state(self) -> str:
        """A hash that changes with what is stored of the run: another recording, more of it, other labels."""
        told = ("run_id", "provenance", "status", "finished_at", "batches_done", "n_sequences", "n_tokens")
        facts = [str(self.run.get(name)) for name in told]
        return hashlib.sha256(json.dumps([facts, self.label_names]).encode()).hexdigest()[:32]

    def _there(self, sequences: Sequence[int]) -> list[int]:
        """The sequences to read, which the run must hold."""
        from store.finding_queries import sequence_labels

        wanted = sorted(set(parsing.ranges(sequences, "sequences")))
        missing = set(wanted) - set(sequence_labels(self.trace, self.run_id)["sequence_id"].tolist())
        if missing or not wanted:
            what = f"no sequence {min(missing)} with tokens in run {self.run_id}" if missing else "no sequences to read"
            raise UsageError(f"sequences: {what}")
        self.n_sequences = len(wanted)
        return wanted

    def sequence_codes(self) -> np.ndarray:
        """[S] the number of the label (-1: none) of each sequence that has tokens, in the order `chunks` reads them."""
        from store.finding_queries import sequence_labels

        rows = sequence_labels(self.trace, self.run_id)
        return rows["label_id"].to_numpy()[self._chosen_rows(rows)]

    def _chosen_rows(self, rows: Any) -> np.ndarray:
        """[S] bool: which of these rows of sequences are read."""
        return (
            np.ones(len(rows), bool) if self.sequences is None else rows["sequence_id"].isin(self.sequences).to_numpy()
        )

    def chunks(self, needs: tuple[str, ...]) -> Iterator[RoutingArrays]:
        """Whole sequences, at most about CHUNK_BYTES of arrays at a time."""
        columns = tuple(dict.fromkeys(("experts", *(n.rstrip("?") for n in needs if n.rstrip("?") in PER_LAYER))))
        layers = None if self._all else [int(x) for x in self.about.layers]
        whole: dict[str, Any] = self._moments() if set(MOMENTS) & set(needs) else {}
        whole |= self._weights() if set(WEIGHTS) & set(needs) else {}
        empty = {name for name in needs if not name.endswith("?") and name != "label"} - set(whole)
        where = {"layers": layers, "columns": columns, "max_rows": self._rows(columns), "sequences": self.sequences}
        self.passes.append(0)
        for chunk in self.trace.chunks(self.run_id, **where):
            self.passes[-1] += len(chunk["sequence_id"])
            empty -= {name for name in empty if _has_values(chunk.get(name))}
            yield self._arrays(chunk, whole)
        if empty:
            raise self._missing(min(empty))

    def _missing(self, name: str) -> ProbeError:
        """What to record to have it."""
        who = "this metric" if self.asked is None else self.asked[0].who_needs(name, dict(self.asked[1]))
        text = f"{who} needs {name}, which run {self.run_id} was recorded without"
        level = LEVELS.get(name.removeprefix("other_"))
        if level is None:
            return ProbeError(text)
        if self.asked is None or level not in self.asked[0].levels():
            return ProbeError(f"{text}: record again with level {level} in --capture")
        return ProbeError(f"{text}: record again with --capture for={self.asked[0].name} (level {level})")

    def _weights(self) -> Mapping[str, Any]:
        """Weights of the model that was recorded, which a trace does not hold."""
        from probes.weights import open_weights

        model = None if self.asked is None else self.asked[1].get("model")
        if model is None:
            raise UsageError("this kind reads the model's weights: give --model FOLDER")
        return open_weights(model, [int(layer) for layer in self.about.layers])

    def _router_inputs(self) -> dict[int, Any]:
        kept = self.trace.router_inputs(self.run_id)
        chosen = {int(layer): kept[int(layer)] for layer in self.about.layers if int(layer) in kept}
        if not chosen:
            raise self._missing("router_input")
        return chosen

    def _moments(self) -> dict[str, np.ndarray]:
        """count [L, E], mean and m2 [L, E, H] of the output vectors; experts a layer lacks have count 0."""
        stored = self.trace.moments(self.run_id)
        if not any(int(layer) in stored for layer in self.about.layers):
            raise self._missing("output_mean")
        width = max(mean.shape[1] for _, mean, _ in stored.values())
        shape = (self.about.num_layers, self.about.num_experts)
        found = {
            "output_count": np.zeros(shape, np.int64),
            "output_mean": np.full((*shape, width), np.nan, np.float32),
            "output_m2": np.full((*shape, width), np.nan, np.float32),
        }
        for i, layer in enumerate(self.about.layers):
            for name, values in zip(MOMENTS, stored.get(int(layer), ()), strict=False):
                found[name][i, : len(values)] = values
        return found

    def _rows(self, columns: tuple[str, ...]) -> int:
        """(token, layer) rows per chunk."""
        width = {**dict.fromkeys(PER_EXPERT, 4 * self.about.num_experts), "experts": 2 * self.about.width}
        per_layer = sum(width.get(name, 4 * self.about.width) for name in columns)
        return min(MOST_ROWS, max(4096, CHUNK_BYTES // max(1, per_layer)))

    def _arrays(self, chunk: Mapping[str, Any], whole: Mapping[str, np.ndarray]) -> RoutingArrays:
        found = {name: chunk.get(name) for name in (*PER_LAYER[1:], *PER_TOKEN)}
        found |= {name: None for name in PER_TOKEN if not _has_values(found[name])}
        experts, *slots = packed(chunk["experts"], *(found[name] for name in PER_SLOT))
        found |= dict(zip(PER_SLOT, slots, strict=True))
        arrays = RoutingArrays(
            experts=experts,
            sequence_id=chunk["sequence_id"],
            layers=self.about.layers,
            num_experts=self.about.num_experts,
            router_k=self.about.top_k,
            label_names=self.label_names,
            **found,
            **whole,
        )
        return cleared(arrays)

    def aggregates(self) -> Mapping[str, Any] | None:
        """The additive sums of the run, of the chosen layers; None where the trace has none, or not all is wanted."""
        if self.sequences is not None and not self.sums_of_all:
            return None
        names = None if self.asked is None else ("count", "tokens", "missing", *self.asked[0].sums)
        stored = self.trace.aggregates(self.run_id, names)
        if not stored:
            return None
        # Every position has a row in every layer, with or without routing.
        seen = (stored["tokens"] + stored["missing"]).max(axis=0)
        found = {name: self._chosen(value) for name, value in stored.items()} | {"seen": seen}
        found["sizes"] = self.sizes
        if self.asked is not None and "router_input" in self.asked[0].needed(dict(self.asked[1])):
            found["router_inputs"] = self._router_inputs()
        return found

    def sizes(self) -> np.ndarray:
        """[L, slots + 1] tokens by how many experts they have: counted when asked, as few runs' tokens differ."""
        from store.finding_queries import numbers_of_experts

        rows = numbers_of_experts(self.trace, self.run_id)
        rows = rows[rows["layer"].isin(self.about.layers)]
        sizes = np.zeros((self.about.num_layers, self.about.width + 1), np.int64)
        sizes[np.searchsorted(self.about.layers, rows["layer"]), rows["k"]] = rows["n_tokens"]
        return sizes

    def _chosen(self, value: Any) -> Any:
        return value[self.position] if not self._all and isinstance(value, np.ndarray) and value.ndim > 1 else value


class TaggedSource(TraceSource):
    """A run whose sequences are grouped by tags of their metadata ("key=value") in place of labels."""

    def __init__(self, first: TraceSource, names: list[str], tags: list[str]) -> None:
        self.__dict__.update(first.__dict__)
        self.label_names = tuple(names)
        columns = "sequence_id, label, n_tokens, metadata::VARCHAR AS metadata"
        rows = self.trace.sql(f"SELECT {columns} FROM sequences WHERE run_id = ? ORDER BY 1", [self.run_id])  # noqa: S608
        self._ids = rows["sequence_id"].to_numpy(np.int64)
        self._codes = np.full(len(rows), -1, np.int64)
        for code, name in enumerate(names):
            mine = _tagged(rows, name) if name in tags else (rows["label"] == name).to_numpy()
            if not mine.any():
                raise UsageError(f"no sequence of run {self.run_id} has {name}")
            if (self._codes[mine] >= 0).any():
                raise UsageError(f"the sets {names[0]} and {names[1]} share sequences; they must not")
            self._codes[mine] = code
        self._read = (rows["n_tokens"] > 0).to_numpy() & self._chosen_rows(rows)

    def sequence_codes(self) -> np.ndarray:
        return self._codes[self._read]

    def chunks(self, needs: tuple[str, ...]) -> Iterator[RoutingArrays]:
        """The run's chunks, with the tags in place of the labels."""
        for arrays in super().chunks(needs):
            codes = self._codes[np.searchsorted(self._ids, arrays.sequence_id)]
            yield dataclasses.replace(arrays, label=codes, label_names=self.label_names)

    def aggregates(self) -> None:
        """The stored sums are by label."""
        return None


def _tagged(rows: Any, tag: str) -> np.ndarray:
    key, _, value = tag.partition("=")
    found = [json.loads(text) if isinstance(text, str) else None for text in rows["metadata"]]
    return np.array([isinstance(d, dict) and key in d and _spelled(d[key]) == value for d in found], bool)


def _spelled(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def second_source(first: TraceSource, against: int | None, against_trace: Any) -> TraceSource:
    """The run to compare with: it has the same layers and experts, or the comparison makes no sense."""
    if against is None and against_trace is None:
        raise UsageError("this compares two runs: give --against RUN (or --against-trace TRACE)")
    trace = first.trace if against_trace is None else opened(against_trace)
    other = TraceSource(trace, against, first.about.layers, first.sequences)
    other.sums_of_all = first.sums_of_all
    a, b = first.about, other.about
    if a.num_experts != b.num_experts:
        raise ProbeError(f"the runs are of different models: {a.num_experts} experts against {b.num_experts}")
    return other


class PairedSource(TraceSource):
    """Two runs of the same tokens, read side by side, some whole sequences at a time."""

    def __init__(self, first: TraceSource, other: TraceSource) -> None:
        self.__dict__.update(first.__dict__)
        self.other = other

    def chunks(self, needs: tuple[str, ...]) -> Iterator[RoutingArrays]:
        """The first run's chunks, each with what the other run chose for the same tokens."""
        own = tuple(name for name in needs if not name.startswith("other_"))
        logits = ("logits?",) if "other_logits?" in needs else ()
        for arrays in super().chunks((*own, "token_id?")):
            wanted = np.unique(arrays.sequence_id).tolist()
            columns = ("experts", *(name.rstrip("?") for name in logits))
            layers = [int(x) for x in self.about.layers]
            where = {"layers": layers, "columns": columns, "sequences": wanted, "max_rows": 2**62}
            parts = list(self.other.trace.chunks(self.other.run_id, **where)) or [self._nothing(columns)]
            other = {name: np.concatenate([p[name] for p in parts]) for name in (*columns, "sequence_id", "token_id")}
            self._same_tokens(arrays, other)
            fields = {f.name: getattr(arrays, f.name) for f in dataclasses.fields(arrays)}
            chosen, scored = cleared_choice(packed(other["experts"])[0], other.get("logits"))
            yield PairedArrays(**fields, other_experts=chosen, other_logits=scored)

    def _nothing(self, columns: tuple[str, ...]) -> dict[str, np.ndarray]:
        """A chunk of no tokens, where the other run has none of the sequences."""
        return {name: np.empty(0, np.int64) for name in (*columns, "sequence_id", "token_id")}

    def _same_tokens(self, arrays: RoutingArrays, other: Mapping[str, np.ndarray]) -> None:
        same = np.array_equal(arrays.sequence_id, other["sequence_id"])
        if same and arrays.token_id is not None:
            same = np.array_equal(arrays.token_id, other["token_id"])
        if not same:
            first = int(arrays.sequence_id[0])
            raise ProbeError(
                f"runs {self.run_id} and {self.other.run_id} are not of the same tokens (from sequence {first} on): "
                "record the same prompts with the same tokenizer"
            )


class RunsSource(TraceSource):
    """Two runs of any tokens beside each other, each in place of a label."""

    def __init__(self, first: TraceSource, other: TraceSource) -> None:
        self.__dict__.update(first.__dict__)
        self.both = (first, other)
        self.label_names = (_named(first), _named(other))
        if self.label_names[0] == self.label_names[1]:
            self.label_names = tuple(f"{name} of {source.trace.path}" for name, source in self._each())
        self.n_sequences = first.n_sequences + other.n_sequences

    def _each(self) -> list[tuple[str, TraceSource]]:
        return list(zip(self.label_names, self.both, strict=True))

    def chunks(self, needs: tuple[str, ...]) -> Iterator[RoutingArrays]:
        """The first run's chunks, then the other's, with the run as label."""
        for code, source in enumerate(self.both):
            for arrays in source.chunks(needs):
                codes = np.full(len(arrays.sequence_id), code)
                yield dataclasses.replace(arrays, label=codes, label_names=self.label_names)

    def aggregates(self) -> Mapping[str, Any] | None:
        """Both runs' counts, each summed over its labels; the last group, of sequences in neither run, is empty."""
        each = [source.aggregates() for source in self.both]
        names = ("count", "tokens", "missing", "seen")
        return (
            {name: _side_by_side([stored[name] for stored in each if stored]) for name in names} if all(each) else None
        )


def _named(source: TraceSource) -> str:
    return f"run {source.run_id}"


def _side_by_side(values: list[np.ndarray]) -> np.ndarray:
    sums = [np.asarray(value).sum(axis=-1) for value in values]
    return np.stack([*sums, np.zeros_like(sums[0])], axis=-1)


def _has_values(values: Any) -> bool:
    """Something recorded: a number that is not NaN, an id that is not −1, a text that is not None."""
    if values is None or not len(values):
        return False
    if values.dtype.kind == "f":
        return not np.isnan(values).all()
    return bool((values >= 0).any()) if values.dtype.kind in "iu" else any(v is not None for v in values)


def _known(wanted: list[int], layers: Any) -> list[int]:
    missing = sorted(set(wanted) - set(layers.tolist()))
    if missing:
        raise UsageError(f"--layers: the run has no MoE layer {missing[0]}; it has {ranges(sorted(layers.tolist()))}")
    return wanted


def ranges(numbers: list[int]) -> str:
    """`0-7`, or each number where some between are left out."""
    if numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]}-{numbers[-1]}"
    return ", ".join(map(str, numbers))


def _about(rows: Any, run_row: Mapping[str, Any]) -> About:
    if not len(rows):
        raise ProbeError("the run has no MoE layers")
    gating = rows["gating"].fillna("").astype(str).str.lower()
    depth = run_row.get("num_layers")
    return About(
        layers=rows["layer"].to_numpy(np.int64),
        num_experts=int(rows["num_experts"].max()),
        top_k=int(rows["top_k"].max()),
        slots=int(rows["slots"].max()),
        scores=tuple(_score_rule(text) for text in gating),
        num_hidden_layers=int(depth) if depth is not None and depth == depth else None,
        shared_experts=tuple(rows["shared_experts"].fillna(0).astype(int)),
    )


def _score_rule(gating: str) -> str:
    stated, colon, rule = (part.strip() for part in gating.partition(":"))
    if colon and not rule:  # recorded without knowing the rule, by whatever name
        return UNKNOWN
    if stated in SCORES:
        return stated
    return next((rule for rule in ("sqrtsoftplus", "sigmoid") if rule in gating), "softmax")
