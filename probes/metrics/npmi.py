"""Which experts go with which targets: labels, tokens or a marker.

Four tokens, two of each label, one of two experts each; expert 0 takes both tokens of "a" and one of "b":

>>> from probes import metrics
>>> t = metrics.npmi([[0], [0], [0], [1]], [0, 0, 1, 1], 2, label=["a", "b"])
>>> t[["expert", "target", "n_xy", "n_x", "n_y"]].values.tolist()
[[0, 'a', 2, 2, 3], [1, 'a', 0, 2, 1], [0, 'b', 1, 2, 3], [1, 'b', 1, 2, 1]]

p(x,y) = 1/2, p(x) = 1/2, p(y) = 3/4 for the first row: pmi = log2(4/3), npmi = log2(4/3) / 1 = 0.415037. Expert 1 never
meets "a": −1.

>>> t.npmi.round(6).tolist()
[0.415037, -1.0, -0.292481, 0.5]
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from probes.errors import ProbeError, UsageError, unknown
from probes.metrics.activations import count_experts, stored_counts
from probes.metrics.bootstrap import interval
from probes.metrics.chunk import About, Chunk, by_group
from probes.metrics.registry import Column, Counts, Metric, Option, Options
from probes.metrics.tables import axes, coverage, grid
from probes.metrics.token_draws import TokenDraws
from probes.parsing import is_whole

if TYPE_CHECKING:
    import pandas as pd

MOST_ROWS = 5_000_000


def markers(options: Options) -> tuple[str, ...]:
    """The token texts that are targets: one marker, or the contrast's plus followed by its minuses."""
    if options["contrast"]:
        return (options["contrast"], *options["minus"])
    target = options["target"]
    return (target.removeprefix("marker:"),) if target.startswith("marker:") else ()


def groups(options: Options) -> str | None:
    """Labels and tokens are groups of positions; markers are counted beside all positions."""
    return None if markers(options) else options["target"]


def check(options: Options, about: About) -> None:
    """A target is label, token or marker:TEXT; --minus goes with --contrast."""
    target = options["target"]
    if target not in ("label", "token") and not target.startswith("marker:"):
        raise unknown("target", target, ["label", "token", "marker:TEXT"])
    if target == "marker:":
        raise UsageError('--target marker:TEXT needs the text of a token, such as marker:"<think>"')
    if options["minus"] and not options["contrast"]:
        raise UsageError("--minus is what --contrast subtracts: give --contrast too")


def count(chunk: Chunk, options: Options) -> Counts:
    """chosen [G, L, E], n_tokens [G, L]; for markers also x [G, L, M] and xy [G, L, M, E]."""
    counts: Counts = {"chosen": count_experts(chunk)}
    wanted = markers(options)
    if wanted:
        at = [is_marker(chunk, text) for text in wanted]
        counts["x"] = np.stack([by_group(chunk.routed & m[:, None], chunk.group, chunk.n_groups) for m in at], axis=2)
        counts["xy"] = np.stack([_chosen_at(chunk, m) for m in at], axis=2)
    return counts


def _chosen_at(chunk: Chunk, at: np.ndarray) -> np.ndarray:
    from probes.metrics.activations import count_ids

    return count_ids(chunk.experts[at], chunk.group[at], chunk.n_groups, chunk.arrays.num_experts)


def is_marker(chunk: Chunk, text: str) -> np.ndarray:
    """[T] bool: the token is `text`; where the trace has no text, the token whose id is that number."""
    if chunk.arrays.token is not None:
        return np.asarray(chunk.arrays.token, dtype=object) == text
    if chunk.arrays.token_id is None:
        raise ProbeError("a marker needs token text or token ids, and the trace has neither")
    if not is_whole(text):
        raise ProbeError(f"the trace has no token text; name the marker by its token id instead of {text!r}")
    return np.asarray(chunk.arrays.token_id) == int(text)


def aggregates(stored: Any, options: Options, about: About) -> Counts | None:
    """Labels need nothing but the stored counts."""
    return stored_counts(stored, about) if groups(options) == "label" else None


def pmi_npmi(n_xy: Any, n_x: Any, n_y: Any, n: Any) -> tuple[np.ndarray, np.ndarray]:
    """pmi in bits and npmi in [−1, 1] from counts (broadcast).

    p(x,y) = 0: npmi −1, pmi −∞. p(x) = 0 or p(y) = 0: NaN. p(x,y) = 1: npmi 1, pmi 0.
    """
    n_xy, n_x, n_y, n = np.broadcast_arrays(*(np.asarray(v, np.float64) for v in (n_xy, n_x, n_y, n)))
    defined = (n_x > 0) & (n_y > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        pmi = np.log2(n_xy * n / (n_x * n_y))
        npmi = pmi / -np.log2(n_xy / n)
    npmi = np.where(n_xy == 0, -1.0, np.where(n_xy == n, 1.0, npmi))
    return np.where(defined, pmi, np.nan), np.where(defined, npmi, np.nan)


def _parts(counts: Counts, options: Options, about: About) -> tuple[Any, Any, Any, Any]:
    """n_xy, n_x, n_y, n that broadcast to [..., target, L, E] (labels, tokens) or [..., G, L, M, E] (markers)."""
    chosen, tokens = counts["chosen"], counts["n_tokens"]
    if markers(options):
        return counts["xy"], counts["x"][..., None], chosen[..., None, :], tokens[..., None, None]
    named = slice(len(about.groups) - (about.groups[-1] is None))
    n_y, n = chosen.sum(axis=-3, keepdims=True), tokens.sum(axis=-2, keepdims=True)[..., None]
    return chosen[..., named, :, :], tokens[..., named, :, None], n_y, n


def _finite(pmi: np.ndarray) -> np.ndarray:
    """pmi with NaN, and not −∞, where the two never meet: a table says what was measured."""
    return np.where(np.isneginf(pmi), np.nan, pmi)


def estimate(counts: Counts, options: Options, about: About) -> np.ndarray:
    """npmi [..., target, L, E]; [..., G, L, E] for a marker; the contrast's score [..., G, L, E]."""
    npmi = pmi_npmi(*_parts(counts, options, about))[1]
    if not markers(options):
        return npmi
    return npmi[..., 0, :] - npmi[..., 1:, :].sum(axis=-2)


def table(counts: Counts, options: Options, about: About) -> pd.DataFrame:
    """One row per (target, layer, expert); for a contrast, ranked by its score over the whole model."""
    if markers(options):
        return _marker_table(counts, options, about)
    names = [name for name in about.groups if name is not None]
    counts, names = _frequent(counts, names, options, about)
    parts = _parts(counts, options, replace(about, groups=(*names, None)) if options["target"] == "token" else about)
    pmi, npmi = pmi_npmi(*parts)
    n_xy, n_x, n_y, n = parts
    columns = {"npmi": npmi, "pmi": _finite(pmi), "n_xy": n_xy, "n_x": n_x, "n_y": np.broadcast_to(n_y, n_xy.shape)}
    columns["n_tokens"] = np.broadcast_to(n, n_xy.shape)
    columns["missing_share"] = np.broadcast_to(1 - n / counts["seen"].sum(), n_xy.shape)
    layers, experts = axes(about, "layer", "expert")["layer"], np.arange(about.num_experts)
    frame = grid({"target": names, "layer": layers, "expert": experts}, columns)
    if options["target"] == "token":
        frame = frame[frame["n_x"] >= options["min_count"]]
    return frame[["layer", "expert", "target", *columns]]


def _frequent(counts: Counts, names: list[Any], options: Options, about: About) -> tuple[Counts, list[Any]]:
    """Leaves the rows of rare tokens out of the table, but not out of p: their sum stays as one unnamed row."""
    if options["target"] != "token":
        return counts, names
    often = (counts["n_tokens"] >= options["min_count"]).any(axis=1)
    rows = int(often.sum()) * about.num_layers * about.num_experts
    if rows > MOST_ROWS:
        raise UsageError(f"{rows:,} rows of tokens: raise --min-count or choose --layers (at most {MOST_ROWS:,} rows)")
    kept = {key: np.concatenate([counts[key][often], counts[key][~often].sum(axis=0, keepdims=True)]) for key in counts}
    return kept, [name for name, keep in zip(names, often, strict=True) if keep]


def token_intervals(draws: TokenDraws, counts: Counts, options: Options, about: About) -> tuple[np.ndarray, np.ndarray]:
    """Interval of the npmi of every (frequent token, layer, expert), in the order of the table before rows leave it."""
    often = np.flatnonzero((counts["n_tokens"] >= options["min_count"]).any(axis=1))
    chosen, tokens = counts["chosen"], counts["n_tokens"]
    value = pmi_npmi(chosen[often], tokens[often, :, None], chosen.sum(axis=0), tokens.sum(axis=0)[:, None])[1]
    n_y, n = draws.marginals()
    ends = []
    for i, (n_xy, n_x) in enumerate(draws.each(often)):
        ends.append(interval(value[i], pmi_npmi(n_xy, n_x[..., None], n_y, n[..., None])[1]))
    low, high = np.array(ends).reshape(len(often), 2, -1).swapaxes(0, 1)
    return low.ravel(), high.ravel()


def _marker_table(counts: Counts, options: Options, about: About) -> pd.DataFrame:
    parts = _parts(counts, options, about)
    pmi, npmi = pmi_npmi(*parts)
    n_xy, n_x, n_y, _ = (np.broadcast_to(part, npmi.shape)[..., 0, :] for part in parts)
    score = estimate(counts, options, about)
    columns = {"target": np.full(score.shape, markers(options)[0], object), "npmi": npmi[..., 0, :]}
    if options["contrast"]:
        columns["score"] = score
    columns |= {"pmi": _finite(pmi[..., 0, :]), "n_xy": n_xy, "n_x": n_x, "n_y": n_y}
    frame = grid(axes(about, "layer", "expert"), {**columns, **coverage(counts)})
    if options["contrast"]:
        frame = frame.sort_values("score", ascending=False, kind="stable", na_position="last")
        frame["rank"] = np.arange(1, len(frame) + 1)
    return frame


METRIC = Metric(
    name="npmi",
    title="nPMI of experts and targets",
    question="Which experts go with which labels, tokens or markers?",
    formula="pmi = log2(p(x,y) / (p(x) p(y))), npmi = pmi / −log2 p(x,y); x the target, y 'chosen', over all "
    "positions with routing of one layer. p(x,y) = 0: −1; p(x) = 0 or p(y) = 0: null; p(x,y) = 1: 1. "
    "Contrast: npmi(plus) − Σ npmi(minus)",
    source="RICE, arXiv 2505.14681",
    options=(
        Option("target", str, "label", "label, token, or marker:TEXT (one token's text, or its id)", metavar="TARGET"),
        Option("min_count", int, 1, "leave out tokens seen fewer times (target token)", low=1),
        Option("contrast", str, "", "score npmi of this token minus those of --minus, ranked over the model"),
        Option("minus", str, (), "token whose npmi --contrast subtracts", repeatable=True),
    ),
    needs=lambda options: ("token?", "token_id?") if markers(options) else (),
    groups=groups,
    check=check,
    columns=(
        Column("layer", "index", "the model's own layer index", 0),
        Column("expert", "index", "expert", 0),
        Column("target", "name", "label, token (text, or id where there is none) or marker"),
        Column("npmi", "ratio", "normalised pointwise mutual information; −1 never together, 1 always", -1, 1),
        Column("score", "ratio", "npmi(plus) − Σ npmi(minus) (contrast)"),
        Column("pmi", "bits", "pointwise mutual information; null where they never meet"),
        Column("n_xy", "tokens", "positions of the target that chose the expert", 0),
        Column("n_x", "tokens", "positions of the target", 0),
        Column("n_y", "tokens", "positions that chose the expert", 0),
        Column("n_tokens", "tokens", "positions with routing", 0),
        Column("missing_share", "share", "positions without routing", 0, 1),
        Column("rank", "rank", "by score, 1 = highest (contrast)", 1),
    ),
    count=count,
    table=table,
    estimate=estimate,
    aggregates=aggregates,
    token_intervals=token_intervals,
    compares=lambda options, labels: labels if groups(options) == "label" else None,
    value="npmi",
    laws=(
        "expert_permutation",
        "empty_slots",
        "rank_order",
        "token_order",
        "sequence_order",
        "range",
        "additivity",
        "missing",
        "duplication",
    ),
    ends={"one_hot": {"npmi": lambda k, e: 0.0}},
)
