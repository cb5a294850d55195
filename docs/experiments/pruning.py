"""Which criterion of importance says best whom to prune?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from experiments.lab import Lab
from experiments.words import number
from probes.evaluation import Evaluation
from probes.evaluation.areas import Area, area, loss_curve, mean_of
from probes.evaluation.plots import Point, Series
from probes.metrics.expert_importance import NEEDS

KEEPS = (0.875, 0.75, 0.625, 0.5)


def pruning(lab: Lab) -> Iterator[str]:
    yield "### Pruning, by every criterion of importance\n"
    arms = {(c, k): f"expert_importance:criterion={c},keep={k}" for c in NEEDS for k in KEEPS}
    # Keep-lists drawn at random, as controls of the first criterion's: the same sizes in the same layers.
    first = next(iter(NEEDS))
    drawn = lab.evaluate([lab.mixed], [arms[first, k] for k in KEEPS], control="count")
    found = lab.evaluate([lab.mixed], list(arms.values()))
    pruned = [0.0, *(100 * (1 - k) for k in KEEPS)]
    areas, lines = {}, {}
    for criterion in NEEDS:
        values, resampled = _from_nothing(*loss_curve(found, [arms[criterion, k] for k in KEEPS]))
        areas[criterion], lines[criterion] = area(values, resampled, pruned), (values, resampled)
    each = []
    for seed in range(lab.sizes.controls):
        names = [f"{arms[first, k]} (control {seed})" for k in KEEPS]
        each.append(_from_nothing(*loss_curve(drawn, names)))
    chance = mean_of([area(values, resampled, pruned) for values, resampled in each])
    ranked = sorted(areas, key=lambda c: areas[c].value)
    shown = {**{c: lines[c] for c in (ranked[0], ranked[-1])}, "random": _mean_line(each)}
    series = [
        Series(c, [_at(x, v, r) for x, v, r in zip(pruned, v_, r_.T, strict=True)], True)
        for c, (v_, r_) in shown.items()
    ]
    n = found.row("texts", "baseline", "perplexity").n
    caption = (
        f"Loss added by pruning (nats per token of {n} texts of all labels): best criterion, worst, random keep-lists."
    )
    yield lab.picture("prune", caption, "Pruning curves", "experts pruned in every layer, %", "nats per token", series)
    yield (
        f"Area under the curve from 0 to {pruned[-1]:.0f} % pruned: the mean loss added, in nats per token, n = {n} "
        f"texts; smaller is better. For the difference from {lab.sizes.controls} random lists, texts and lists are "
        "drawn anew.\n"
    )
    yield "| criterion | area | minus random | better than random | minus load-matched | better than these |"
    yield "|---|---|---|---|---|---|"
    for criterion in ranked:
        as_busy = _as_busy(lab, found, [arms[criterion, k] for k in KEEPS], pruned)
        yield _area_row(criterion, areas[criterion], chance, as_busy)
    yield f"| random | {number(chance.value, chance.low, chance.high, 3)} | | | | |\n"
    yield (
        "Random lists keep as many experts, drawn from all. Load-matched lists keep as many that get the same share of "
        "these texts' tokens, within 10 % of it: what a criterion adds to keeping busy experts.\n"
    )


def _as_busy(lab: Lab, found: Evaluation, arms: Sequence[str], pruned: Sequence[float]) -> Area | None:
    """The mean area of the keep-lists with the same load; None where there are none at some share kept."""
    each = []
    for seed in range(lab.sizes.controls):
        names = [f"{arm} (control {seed})" for arm in arms]
        if all(name in found.arms for name in names):
            each.append(area(*_from_nothing(*loss_curve(found, names)), pruned))
    return mean_of(each) if each else None


def _from_nothing(values: np.ndarray, resampled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """With the unpruned model as the first point, where nothing is lost."""
    return np.concatenate([[0.0], values]), np.pad(resampled, ((0, 0), (1, 0)))


def _mean_line(each: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    values, drawn = (np.mean([part[i] for part in each], axis=0) for i in (0, 1))
    return values, drawn


def _at(x: float, value: float, drawn: np.ndarray) -> Point:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Point(x, float(value), float(low), float(high))


def _area_row(criterion: str, one: Area, chance: Area, as_busy: Area | None) -> str:
    cells = [number(one.value, one.low, one.high, 3), *_minus(one, chance)]
    cells += ["no such lists", ""] if as_busy is None else _minus(one, as_busy)
    return f"| {criterion} | {' | '.join(cells)} |"


def _minus(one: Area, other: Area) -> list[str]:
    """Two cells: the difference, and whether the first is better."""
    difference, low, high = one.minus(other)
    better = "yes" if high < 0 else "no, worse" if low > 0 else "not surely"
    return [number(difference, low, high, 3), better]
