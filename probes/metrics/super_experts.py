"""Experts whose output is far larger than any other's.

Four experts in one of two layers, largest outputs 1000, 1, 2, 3: the 99.5th percentile is 985.045 and a tenth of the
maximum is 100, so expert 0 is a super expert.

>>> from probes import metrics
>>> t = metrics.super_experts([[0, 1], [2, 3]], num_experts=4, output_absmax=[[1000, 1], [2, 3]], num_hidden_layers=2)
>>> t[["expert", "max_abs_output", "is_super"]].values.tolist()
[[0, 1000.0, True], [1, 1.0, False], [2, 2.0, False], [3, 3.0, False]]
>>> t[["threshold_percentile", "threshold_tenth"]].round(3).values[0].tolist()
[985.045, 100.0]

With what went in, and the residual stream of the layer: a token's largest component over its median one.

>>> more = dict(input_absmax=[7, 9], hidden_absmax=[600, 4], hidden_absmedian=[2, 1])
>>> t = metrics.super_experts([[0, 1], [2, 3]], num_experts=4, output_absmax=[[1000, 1], [2, 3]], **more)
>>> t[["max_abs_input", "massive_activation_ratio"]].values.tolist()[1:3]
[[7.0, 300.0], [9.0, 300.0]]

A layer's shared expert is one more among those compared; here it is the largest of all:

>>> more = dict(output_absmax=[[10, 1], [2, 3]], shared_absmax=[5, 400], num_hidden_layers=2)
>>> t = metrics.super_experts([[0, 1], [2, 3]], num_experts=4, **more)
>>> t[t.is_super][["kind", "expert", "max_abs_output", "position"]].values.tolist()
[['shared', 0, 400.0, 1]]
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from probes.errors import ProbeError
from probes.metrics.chunk import About, Chunk
from probes.metrics.registry import Column, Counts, Metric, Option, Options
from probes.metrics.tables import axes, coverage, grid, ratio

if TYPE_CHECKING:
    import pandas as pd


KINDS = ("routed", "shared")


def needs(options: Options) -> tuple[str, ...]:
    """The arrays of the kinds asked for."""
    routed = ("output_absmax", "input_absmax?") if "routed" in options["kind"] else ()
    shared = ("shared_absmax?", "shared_input_absmax?") if "shared" in options["kind"] else ()
    return (*routed, *shared, "hidden_absmax?", "hidden_absmedian?", "token?", "token_id?")


def count(chunk: Chunk, options: Options) -> Counts:
    """largest [G, L, E + 1] (NaN: never routed; last, the layer's shared expert), and where: sequence, position, token;
    largest input [G, L, E + 1] and residual stream, as a multiple of its median [G, L]."""
    groups, _, layers, _, experts = chunk.shape
    shape = (groups, layers, experts + 1)
    largest, at, inputs = np.full(shape, np.nan), np.full(shape, -1, np.int64), np.full(shape, np.nan)
    for values, received, columns in _measured(chunk, options):
        _largest(chunk, values, columns, largest, at)
        _largest(chunk, received, columns, inputs)
    token = chunk.arrays.token if chunk.arrays.token is not None else chunk.arrays.token_id
    within = np.arange(len(chunk.group)) - np.repeat(chunk.starts[:-1], np.diff(chunk.starts))
    found = np.maximum(at, 0)
    names = np.full(at.shape, None, object) if token is None else np.asarray(token, dtype=object)[found]
    names[at < 0] = None
    return {
        "largest": largest,
        "position": np.where(at < 0, -1, within[found]),
        "sequence": np.where(at < 0, -1, np.asarray(chunk.arrays.sequence_id)[found]),
        "token": names,
        "max_input": inputs,
        "max_massive": _massive(chunk),
    }


def _measured(chunk: Chunk, options: Options) -> Iterator[tuple[Any, Any, np.ndarray]]:
    """(outputs, inputs, which expert) of every kind asked for, [T, L, k] each; the shared expert is number E."""
    arrays = chunk.arrays
    if "routed" in options["kind"]:
        inputs = None if arrays.input_absmax is None else np.asarray(arrays.input_absmax)[:, :, None]
        yield arrays.output_absmax, inputs, chunk.experts
    if "shared" in options["kind"]:
        given = (arrays.shared_absmax, arrays.shared_input_absmax)
        outputs, inputs = (None if values is None else np.asarray(values)[:, :, None] for values in given)
        yield outputs, inputs, np.full((*chunk.routed.shape, 1), arrays.num_experts)


def _largest(chunk: Chunk, values: Any, experts: np.ndarray, largest: np.ndarray, at: np.ndarray | None = None) -> None:
    """Fills the maximum of each expert, and the first token that reaches it."""
    if values is None:
        return
    values = np.where(experts >= 0, np.broadcast_to(np.asarray(values, np.float64), experts.shape), np.nan)
    t, i, r = np.nonzero(~np.isnan(values))
    where = (chunk.group[t], i, experts[t, i, r])
    np.fmax.at(largest, where, values[t, i, r])
    if at is not None:
        holds = values[t, i, r] == largest[where]
        at[tuple(w[holds][::-1] for w in where)] = t[holds][::-1]  # last to first, so the first token stays


def _massive(chunk: Chunk) -> np.ndarray:
    out = np.full((chunk.n_groups, chunk.experts.shape[1]), np.nan)
    if chunk.arrays.hidden_absmax is not None and chunk.arrays.hidden_absmedian is not None:
        np.fmax.at(out, chunk.group, ratio(chunk.arrays.hidden_absmax, chunk.arrays.hidden_absmedian))
    return out


def merge(a: Counts, b: Counts) -> Counts:
    """The larger output of both; on a tie, or where only one has any, that of the earlier chunk first."""
    newer = (b["largest"] > a["largest"]) | (np.isnan(a["largest"]) & ~np.isnan(b["largest"]))
    out = {key: np.where(newer, b[key], a[key]) for key in ("largest", "position", "sequence", "token")}
    out |= {key: np.fmax(a[key], b[key]) for key in ("max_input", "max_massive")}
    return out | {key: a[key] + b[key] for key in ("n_tokens", "seen")}


def table(counts: Counts, options: Options, about: About) -> pd.DataFrame:
    """One row per (layer, expert), the routed ones first, then a layer's shared expert."""
    largest = counts["largest"]
    _check_shared(largest[..., -1], options, about)
    depth = options["num_hidden_layers"] or about.num_hidden_layers or int(about.layers.max()) + 1
    scope = about.layers < round(options["depth"] * depth)
    percentile, tenth = thresholds(largest[:, scope], options)
    both = np.maximum(percentile, tenth)[:, None, None]
    kinds = np.array([*["routed"] * about.num_experts, "shared"], object)
    columns: dict[str, Any] = {
        "kind": np.broadcast_to(kinds, largest.shape),
        "max_abs_output": largest,
        "max_abs_input": counts["max_input"],
        "massive_activation_ratio": counts["max_massive"],
        "threshold_percentile": percentile,
        "threshold_tenth": tenth,
        "is_super": (largest > both) & scope[:, None],
        "token": counts["token"],
        "sequence_id": counts["sequence"],
        "position": counts["position"],
        **coverage(counts),
    }
    frame = grid({**axes(about, "layer"), "expert": [*range(about.num_experts), 0]}, columns)
    places = frame[["sequence_id", "position"]].astype("Int64")
    frame[["sequence_id", "position"]] = places.where(places >= 0)
    return _rows(frame, largest[..., -1], options)


def thresholds(largest: np.ndarray, options: Options) -> tuple[np.ndarray, np.ndarray]:
    """The percentile and the tenth of the maximum [G] of the known outputs [G, layers in scope, E + 1]."""
    percentile, tenth = np.full(len(largest), np.nan), np.full(len(largest), np.nan)
    for g, values in enumerate(largest):
        known = values[~np.isnan(values)]
        if len(known):
            percentile[g] = np.percentile(known, options["percentile"])
            tenth[g] = known.max() / 10 if options["exact_tenth"] else known.max() // 10
    return percentile, tenth


def _check_shared(shared: np.ndarray, options: Options, about: About) -> None:
    """The thresholds are over shared experts too: leaving them out has to be said."""
    if "shared" in options["kind"] and any(about.shared_experts) and np.isnan(shared).all():
        raise ProbeError(
            "super_experts shared needs shared_absmax, which was not recorded: record again with "
            "--capture for=super_experts (level shared), or look at the others alone with --kind routed"
        )


def _rows(frame: pd.DataFrame, shared: np.ndarray, options: Options) -> pd.DataFrame:
    """Without the kind that was not asked for, and without shared experts of layers that have none."""
    known = np.zeros((*shared.shape, len(frame) // shared.size), bool)
    known[..., :-1] = "routed" in options["kind"]
    known[..., -1] = ~np.isnan(shared)
    return frame[known.ravel()]


METRIC = Metric(
    name="super_experts",
    title="Super experts",
    question="Which experts produce outputs far larger than all others?",
    formula="v = max |down-projection output| over all tokens routed to the expert, before the routing weight; "
    "super iff v > percentile(v in scope, 99.5; linear) and v > max(v)//10; scope: layers l < "
    "round(0.75·num_hidden_layers). massive_activation_ratio: the largest, over the layer's tokens, of the token's "
    "max |h| over its median |h|, h the residual stream before the experts. A layer's shared expert counts as one",
    source="arXiv 2507.23279",
    options=(
        Option("kind", str, KINDS, "which experts are compared", KINDS, repeatable=True),
        Option("percentile", float, 99.5, "percentile of v over the experts in scope", low=0, high=100),
        Option("depth", float, 0.75, "share of the model's layers in scope, from the first", low=0, high=1),
        Option("exact_tenth", bool, False, "a tenth of the maximum itself, not rounded down to a whole number"),
        Option("num_hidden_layers", int, None, "layers of the model, dense ones too (default: the trace's)", low=1),
    ),
    needs=needs,
    columns=(
        Column("layer", "index", "the model's own layer index", 0),
        Column("expert", "index", "expert, among those of its kind", 0),
        Column("kind", "name", "routed, or shared: the one every token of the layer passes through"),
        Column("max_abs_output", "activation", "largest |output component|; null if never routed", 0),
        Column("max_abs_input", "activation", "largest |input component|; null where not recorded", 0),
        Column(
            "massive_activation_ratio",
            "ratio",
            "of the layer: a token's max |h| over its median |h|",
            1,
        ),
        Column("threshold_percentile", "activation", "the percentile over the experts in scope", 0),
        Column("threshold_tenth", "activation", "a tenth of the largest v", 0),
        Column("is_super", "yes/no", "above both thresholds and in scope"),
        Column("token", "name", "token that made the maximum (text, or id)"),
        Column("sequence_id", "index", "its sequence"),
        Column("position", "index", "its position in the sequence"),
        Column("n_tokens", "tokens", "tokens with routing", 0),
        Column("missing_share", "share", "positions without routing", 0, 1),
    ),
    count=count,
    table=table,
    merge=merge,
    value="max_abs_output",
    laws=("expert_permutation", "empty_slots", "rank_order", "range", "additivity", "missing"),
)
