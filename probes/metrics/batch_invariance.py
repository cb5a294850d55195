"""Does a token's routing depend on what it was batched with? Compares two runs of the same tokens.

The second token's expert changed from 1 to 2; its logits moved by 0.5.

>>> from probes import metrics
>>> args = dict(experts=[[0], [1]], num_experts=3, other_experts=[[0], [2]])
>>> t = metrics.batch_invariance(**args, logits=[[1, 0, 0], [0, 1, 0.75]], other_logits=[[1, 0, 0], [0, 1, 1.25]])
>>> t[["sequence_id", "layer", "position", "changed", "max_logit_difference"]].values.tolist()
[[0.0, 0.0, 1.0, 1.0, 0.5]]
>>> s = metrics.batch_invariance(**args, summary=True)
>>> s[["changed_tokens", "changed_share", "n_tokens"]].values.tolist()
[[1.0, 0.5, 2.0]]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from probes.metrics.chunk import About, Chunk, PairedArrays, by_group
from probes.metrics.registry import Column, Counts, Metric, Option, Options
from probes.metrics.router_saturation import choices
from probes.metrics.tables import axes, coverage, grid, ratio

if TYPE_CHECKING:
    import pandas as pd


def count(chunk: Chunk, options: Options) -> Counts:
    """n_tokens, changed and max_difference (of the logits) [G, L]; and the changed tokens one by one."""
    found = choices(chunk)
    both, lost = found.both, found.changed
    difference = np.where(both, _logit_difference(chunk), np.nan)
    largest = np.full((chunk.n_groups, lost.shape[1]), np.nan)
    np.fmax.at(largest, chunk.group, difference)
    t, i = np.nonzero(lost)
    starts = chunk.starts[np.searchsorted(chunk.starts, t, side="right") - 1]
    sequence = np.asarray(chunk.arrays.sequence_id)[t]
    listed = (chunk.row[t], i, sequence, t - starts, lost[t, i], difference[t, i])
    return {
        "n_tokens": by_group(both, chunk.group, chunk.n_groups),
        "changed": by_group(lost > 0, chunk.group, chunk.n_groups),
        "max_difference": largest,
        "_changes": [listed],
    }


def _logit_difference(chunk: Chunk) -> np.ndarray:
    """[T, L] max |logit of one run − of the other| over the experts finite in both; NaN where there are none.

    An intervention masks experts with logits of −∞, which have no difference from anything.
    """
    assert isinstance(chunk.arrays, PairedArrays)
    a, b = chunk.arrays.logits, chunk.arrays.other_logits
    if a is None or b is None:
        return np.full(chunk.routed.shape, np.nan)
    both = np.isfinite(a) & np.isfinite(b)
    difference = np.abs(np.where(both, a, 0).astype(np.float64) - np.where(both, b, 0))
    known = both.any(axis=-1) & ~(np.isnan(a) | np.isnan(b)).any(axis=-1)
    return np.where(known, difference.max(axis=-1), np.nan)


def table(counts: Counts, options: Options, about: About) -> pd.DataFrame:
    """One row per changed token and layer, or with `summary` per layer."""
    import pandas as pd

    if options["summary"]:
        share = ratio(counts["changed"], counts["n_tokens"])
        columns = {"changed_tokens": counts["changed"], "changed_share": share}
        columns["max_logit_difference"] = counts["max_difference"]
        return grid(axes(about, "layer"), {**columns, **coverage(counts)})
    row, i, sequence, position, changed, difference = (np.concatenate(v) for v in zip(*counts["_changes"], strict=True))
    cover = {name: values[row, i] for name, values in coverage(counts).items()}
    columns = {"sequence_id": sequence, "layer": about.layers[i], "position": position, "changed": changed}
    frame = pd.DataFrame({**columns, "max_logit_difference": difference, **cover})
    if about.by:
        frame.insert(0, about.by, np.array(about.groups, object)[row])
    return frame


METRIC = Metric(
    name="batch_invariance",
    title="Batch invariance",
    question="Does a token's routing depend on what it was batched with?",
    formula="the same sequences in two runs, alone and in batches: changed = chosen experts of the token that the "
    "other run does not choose, the larger number of the two runs (no expert at all is a choice of its own); "
    "max_logit_difference = max over experts of |logit − logit|. Only changed tokens are listed",
    source="cross-batch dependence: arXiv 2402.05526, arXiv 2410.22884",
    options=(Option("summary", bool, False, "one row per layer: how many tokens changed"),),
    needs=("other_experts", "logits?", "other_logits?"),
    paired=True,
    columns=(
        Column("sequence_id", "index", "sequence of the token"),
        Column("layer", "index", "the model's own layer index", 0),
        Column("position", "index", "position in the sequence", 0),
        Column("changed", "experts", "chosen experts that the other run does not choose", 1),
        Column("changed_tokens", "tokens", "tokens with any change (summary)", 0),
        Column("changed_share", "share", "of the tokens (summary)", 0, 1),
        Column(
            "max_logit_difference",
            "logit",
            "largest difference over the experts finite in both; null without logits",
            0,
        ),
        Column("n_tokens", "tokens", "tokens with routing in both runs", 0),
        Column("missing_share", "share", "positions without routing in one of them", 0, 1),
    ),
    count=count,
    table=table,
    value="changed",
    laws=("expert_permutation", "empty_slots", "self_agreement", "rank_order", "range", "additivity", "missing"),
)
