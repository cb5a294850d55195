"""Do the router's inputs gather around their experts' means?

One component, one layer: expert 0's tokens at 0 and 2, expert 1's at 5. Within (1 + 1)/3 = 0.667; between
(2·(4/3)² + (8/3)²)/3 = 3.556; rc = 0.667/3.556.

>>> from probes import metrics
>>> t = metrics.representation_collapse([[0], [0], [1]], num_experts=2, router_input=[[[0.0]], [[2.0]], [[5.0]]])
>>> t[["rc", "within", "between"]].round(4).values.tolist()
[[0.1875, 0.6667, 3.5556]]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from probes.metrics.chunk import About, Chunk
from probes.metrics.registry import Column, Counts, Metric, Options
from probes.metrics.tables import axes, coverage, grid
from probes.scatter import class_sums, scatter

if TYPE_CHECKING:
    import pandas as pd

SMALLEST = 1e-9  # of the largest singular value: below it a direction between the means is rounding


def count(chunk: Chunk, options: Options) -> Counts:
    """count [1, L, E], total [1, L, E, H], products [1, L, H, H] of the router inputs by the expert ranked first."""
    inputs, experts = np.asarray(chunk.arrays.router_input), chunk.arrays.num_experts
    each = [class_sums(inputs[:, i], chunk.experts[:, i, 0], experts) for i in range(inputs.shape[1])]
    return _counts(each)


def _counts(each: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Counts:
    n, total, products = (np.stack(values)[None] for values in zip(*each, strict=True))
    return {"count": n, "total": total, "products": products, "n_tokens": n.sum(axis=-1)}


def aggregates(stored: Mapping[str, Any], options: Options, about: About) -> Counts:
    """The same from the sums that a recording keeps."""
    kept, seen = stored["router_inputs"], np.asarray(stored["seen"]).sum()[None]
    width = next(iter(kept.values()))[1].shape[1]
    none = (np.zeros(about.num_experts, int), np.zeros((about.num_experts, width)), np.zeros((width, width)))
    each = [_widened(kept.get(int(layer), none), about.num_experts) for layer in about.layers]
    return {**_counts(each), "seen": seen}


def _widened(
    sums: tuple[np.ndarray, np.ndarray, np.ndarray], experts: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """With a row for every expert of the widest layer."""
    n, total, products = sums
    more = experts - len(n)
    return np.pad(n, (0, more)), np.pad(total, ((0, more), (0, 0))), products


def collapse(n: np.ndarray, total: np.ndarray, products: np.ndarray) -> tuple[float, float, float]:
    """(Tr(Σ_W Σ_B⁺), Tr Σ_W, Tr Σ_B); the first is NaN where fewer than two experts differ."""
    if not n.sum():
        return np.nan, np.nan, np.nan
    within, between = scatter(n, total, products)
    # Σ_B = AᵀA has at most E − 1 directions, so its inverse is taken in those and not over all H.
    share = n / n.sum()
    away = np.where(n[:, None] > 0, total / np.maximum(n, 1)[:, None] - total.sum(axis=0) / n.sum(), 0)
    _, size, directions = np.linalg.svd(np.sqrt(share)[:, None] * away, full_matrices=False)
    kept = size > SMALLEST * max(size.max(initial=0), np.abs(total).max() / n.sum())
    along = directions[kept]
    ratio = np.einsum("ih,hg,ig->i", along, within, along) / size[kept] ** 2
    return float(ratio.sum()) if kept.any() else np.nan, float(np.trace(within)), float(np.trace(between))


def table(counts: Counts, options: Options, about: About) -> pd.DataFrame:
    """One row per layer."""
    each = zip(counts["count"][0], counts["total"][0], counts["products"][0], strict=True)
    values = np.array([collapse(*sums) for sums in each])[None]
    columns = {name: values[..., i] for i, name in enumerate(("rc", "within", "between"))}
    return grid(axes(about, "layer"), {**columns, **coverage(counts)})


METRIC = Metric(
    name="representation_collapse",
    title="Representation collapse",
    question="Do the router's inputs collapse towards their experts' means?",
    formula="RC = Tr(Σ_W Σ_B⁺) of the router inputs by the expert ranked first; Σ_W scatter around the experts' "
    "means, Σ_B scatter of these means around the common one, both divided by the number of tokens, so that "
    "Σ_W + Σ_B is the covariance; ⁺ the pseudo-inverse. Smaller = more collapsed; within and between are the traces",
    source="arXiv 2204.09179",
    needs=("router_input",),
    by=(),
    columns=(
        Column("layer", "index", "the model's own layer index", 0),
        Column("rc", "ratio", "Tr(Σ_W Σ_B⁺); null where fewer than two experts are ranked first", 0),
        Column("within", "activation²", "Tr Σ_W", 0),
        Column("between", "activation²", "Tr Σ_B", 0),
        Column("n_tokens", "tokens", "tokens whose router input was seen", 0),
        Column("missing_share", "share", "positions without it", 0, 1),
    ),
    count=count,
    table=table,
    aggregates=aggregates,
    value="rc",
    laws=(
        "expert_permutation",
        "empty_slots",
        "token_order",
        "sequence_order",
        "range",
        "additivity",
        "missing",
        "duplication",
    ),
)
