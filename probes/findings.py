"""What a recording says at first sight, in plain words: each fact with its number and the command that shows more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

STRONG_NPMI = 0.1
PER_LABEL = 2
SHOWN_TOKENS = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact: a headline, the sentence with its numbers, and the command to look further."""

    title: str
    text: str
    command: str


def findings(trace: Any, run_id: int | None = None) -> list[Finding]:
    """The facts of one run of a trace, computed from its stored sums; facts that it cannot support are left out."""
    run = trace.run(run_id)
    sums = trace.aggregates(run["run_id"])
    layers = np.asarray(sums["layers"])
    names = list(trace.label_names(run["run_id"]))
    path = _shown(Path(trace.path))
    return [
        *_experts_of_labels(sums, layers, names, path),
        *_loads(sums, layers, path),
        *_uncertain_tokens(trace, run["run_id"], path),
        *_entropies(sums, layers, path),
    ]


def _shown(path: Path) -> str:
    """The trace as one would type it here."""
    path = path.resolve()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def npmi(count: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """npmi [L, E, G] of "expert e is chosen" and "the sequence has label g", in bits over bits.

    count [L, E, G] tokens of label g that chose e; tokens [L, G] tokens of label g. -1 where they never meet, NaN
    where expert or label never occurs (RICE, arXiv 2505.14681).
    """
    total = tokens.sum(axis=-1)[:, None, None].astype(float)
    chosen = count.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        joint = count / total
        pmi = np.log2(joint * total**2 / (chosen * tokens[:, None, :]))
        value = np.where(joint == 1, 1.0, pmi / -np.log2(joint))
    value = np.where(count == 0, -1.0, value)
    return np.where((chosen == 0) | (tokens[:, None, :] == 0), np.nan, value)


def _experts_of_labels(sums: Any, layers: np.ndarray, names: list[str], path: str) -> Iterator[Finding]:
    if len(names) < 2:
        return
    count, tokens = sums["count"][:, :, : len(names)], sums["tokens"][:, : len(names)]
    values = np.nan_to_num(npmi(count, tokens), nan=-1.0)
    for g in np.argsort(-values.max(axis=(0, 1))):
        order = np.argsort(-values[:, :, g], axis=None)[:PER_LABEL]
        best = [(*np.unravel_index(flat, values.shape[:2]), g) for flat in order]
        strong = [where for where in best if values[where] >= STRONG_NPMI]
        if strong:
            experts = " and ".join(
                f"expert {e} of layer {layers[i]} (nPMI {values[i, e, g]:.2f}; "
                f"{_percent(count[i, e, g], tokens[i, g])} of its tokens choose it, "
                f"{_percent(_rest(count[i, e], g), _rest(tokens[i], g))} of the others)"
                for i, e, _ in strong
            )
            text = f"{names[g]} goes to {experts}. n = {int(tokens[0, g]):,} tokens."
            yield Finding(f"Experts of {names[g]}", text, f"probe analyze npmi {path} --target label")


def _rest(values: np.ndarray, g: int) -> int:
    return int(values.sum() - values[g])


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "none"


def _loads(sums: Any, layers: np.ndarray, path: str) -> Iterator[Finding]:
    count = sums["count"].sum(axis=-1)
    tokens = sums["tokens"].sum(axis=-1)
    if not count.sum():
        return
    with np.errstate(divide="ignore", invalid="ignore"):
        straggler = count.max(axis=1) / count.mean(axis=1)
    worst = int(np.nanargmax(straggler))
    expert, dead = int(count[worst].argmax()), int((count == 0).sum())
    text = (
        f"Layer {layers[worst]} is the most unevenly loaded: its busiest expert, {expert}, takes "
        f"{_percent(count[worst, expert], count[worst].sum())} of the assignments, "
        f"{straggler[worst]:.1f} times the mean (n = {int(tokens[worst]):,} tokens). "
        + (f"{dead} experts were never chosen." if dead else "Every expert of every layer was chosen at least once.")
    )
    yield Finding("The most loaded layer", text, f"probe analyze load {path} --summary")


UNCERTAIN = """
SELECT r.sequence_id, r.position, any_value(t.token) AS token, avg(r.entropy) AS entropy, count(*) AS n_layers
FROM routing r JOIN tokens t USING (run_id, sequence_id, position)
WHERE r.run_id = ? AND r.entropy IS NOT NULL
GROUP BY r.sequence_id, r.position
ORDER BY 4 DESC, 1, 2 LIMIT ?
"""


def _uncertain_tokens(trace: Any, run_id: int, path: str) -> Iterator[Finding]:
    rows = trace.sql(UNCERTAIN, [run_id, SHOWN_TOKENS])
    if not len(rows):
        return
    spelled = "; ".join(
        f"{row.token!r} (sequence {row.sequence_id}, position {row.position}): {row.entropy:.2f} nats"
        for row in rows.itertuples()
    )
    text = f"{spelled}. Mean over {int(rows.n_layers.iloc[0])} layers."
    yield Finding("The most uncertain tokens", text, f"probe analyze routing_entropy {path}")


def _entropies(sums: Any, layers: np.ndarray, path: str) -> Iterator[Finding]:
    known = sums["n_entropy"].sum(axis=-1)
    if not known.any():
        return
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = sums["sum_entropy"].sum(axis=-1) / known
    high, low = int(np.nanargmax(mean)), int(np.nanargmin(mean))
    ceiling = np.log(sums["count"].shape[1])
    text = (
        f"Routing is most certain in layer {layers[low]} (mean entropy {mean[low]:.2f} nats) and least in layer "
        f"{layers[high]} ({mean[high]:.2f} nats); choosing evenly would be {ceiling:.2f} nats. "
        f"n = {int(known[high]):,} tokens."
    )
    yield Finding("Certainty by layer", text, f"probe analyze routing_entropy {path}")
