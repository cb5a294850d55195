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
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from probes.metrics.chunk import About, Chunk
from probes.metrics.registry import Column, Counts, Metric, Option, Options
from probes.metrics.tables import axes, coverage, grid, ratio

if TYPE_CHECKING:
    import pandas as pd


def count(chunk: Chunk, options: Options) -> Counts:
    """largest [G, L, E] (NaN: never routed), and where: sequence, position, token [G, L, E]; largest input [G, L, E]
    and residual stream, as a multiple of its median [G, L]."""
    groups, _, layers, _, experts = chunk.shape
    largest, at = np.full((groups, layers, experts), np.nan), np.full((groups, layers, experts), -1, np.int64)
    _largest(chunk, largest, at)
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
        "max_input": _largest_input(chunk),
        "max_massive": _massive(chunk),
    }


def _largest_input(chunk: Chunk) -> np.ndarray:
    groups, _, layers, _, experts = chunk.shape
    out = np.full((groups, layers, experts), np.nan)
    if chunk.arrays.input_absmax is not None:
        values = np.broadcast_to(np.asarray(chunk.arrays.input_absmax, np.float64)[:, :, None], chunk.experts.shape)
        t, i, r = np.nonzero((chunk.experts >= 0) & ~np.isnan(values))
        np.fmax.at(out, (chunk.group[t], i, chunk.experts[t, i, r]), values[t, i, r])
    return out


def _massive(chunk: Chunk) -> np.ndarray:
    out = np.full((chunk.n_groups, chunk.experts.shape[1]), np.nan)
    if chunk.arrays.hidden_absmax is not None and chunk.arrays.hidden_absmedian is not None:
        np.fmax.at(out, chunk.group, ratio(chunk.arrays.hidden_absmax, chunk.arrays.hidden_absmedian))
    return out


def _largest(chunk: Chunk, largest: np.ndarray, at: np.ndarray) -> None:
    """Fills the maximum and the first token that reaches it."""
    values = np.where(chunk.experts >= 0, np.asarray(chunk.arrays.output_absmax, np.float64), np.nan)
    t, i, r = np.nonzero(~np.isnan(values))
    where = (chunk.group[t], i, chunk.experts[t, i, r])
    np.fmax.at(largest, where, values[t, i, r])
    holds = values[t, i, r] == largest[where]
    cells = tuple(w[holds][::-1] for w in where)
    at[cells] = t[holds][::-1]  # written last to first, so the first token stays


def merge(a: Counts, b: Counts) -> Counts:
    """The larger output of both; on a tie, or where only one has any, that of the earlier chunk first."""
    newer = (b["largest"] > a["largest"]) | (np.isnan(a["largest"]) & ~np.isnan(b["largest"]))
    out = {key: np.where(newer, b[key], a[key]) for key in ("largest", "position", "sequence", "token")}
    out |= {key: np.fmax(a[key], b[key]) for key in ("max_input", "max_massive")}
    return out | {key: a[key] + b[key] for key in ("n_tokens", "seen")}


def table(counts: Counts, options: Options, about: About) -> pd.DataFrame:
    """One row per (layer, expert)."""
    depth = options["num_hidden_layers"] or about.num_hidden_layers or int(about.layers.max()) + 1
    scope = about.layers < round(options["depth"] * depth)
    shape = counts["largest"].shape
    percentile, tenth = np.full(shape[0], np.nan), np.full(shape[0], np.nan)
    for g, values in enumerate(counts["largest"][:, scope]):
        known = values[~np.isnan(values)]
        if len(known):
            percentile[g] = np.percentile(known, options["percentile"])
            tenth[g] = known.max() / 10 if options["exact_tenth"] else known.max() // 10
    both = np.maximum(percentile, tenth)[:, None, None]
    columns: dict[str, Any] = {
        "kind": np.full(shape, "routed", object),
        "max_abs_output": counts["largest"],
        "max_abs_input": counts["max_input"],
        "massive_activation_ratio": counts["max_massive"],
        "threshold_percentile": percentile,
        "threshold_tenth": tenth,
        "is_super": (counts["largest"] > both) & scope[:, None],
        "token": counts["token"],
        "sequence_id": counts["sequence"],
        "position": counts["position"],
        **coverage(counts),
    }
    frame = grid(axes(about, "layer", "expert"), columns)
    places = frame[["sequence_id", "position"]].astype("Int64")
    frame[["sequence_id", "position"]] = places.where(places >= 0)
    return frame


METRIC = Metric(
    name="super_experts",
    title="Super experts",
    question="Which experts produce outputs far larger than all others?",
    formula="v = max |down-projection output| over all tokens routed to the expert, before the routing weight; "
    "super iff v > percentile(v in scope, 99.5; linear) and v > max(v)//10; scope: layers l < "
    "round(0.75·num_hidden_layers). massive_activation_ratio: the largest, over the layer's tokens, of the token's "
    "max |h| over its median |h|, h the residual stream before the experts. Shared experts are not recorded",
    source="arXiv 2507.23279",
    options=(
        Option("percentile", float, 99.5, "percentile of v over the experts in scope", low=0, high=100),
        Option("depth", float, 0.75, "share of the model's layers in scope, from the first", low=0, high=1),
        Option("exact_tenth", bool, False, "a tenth of the maximum itself, not rounded down to a whole number"),
        Option("num_hidden_layers", int, None, "layers of the model, dense ones too (default: the trace's)", low=1),
    ),
    needs=("output_absmax", "input_absmax?", "hidden_absmax?", "hidden_absmedian?", "token?", "token_id?"),
    columns=(
        Column("layer", "index", "the model's own layer index", 0),
        Column("expert", "index", "expert", 0),
        Column("kind", "name", "routed (shared experts are not recorded)"),
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
    laws=("expert_permutation", "rank_order", "range", "additivity", "missing"),
)
