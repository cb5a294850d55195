"""Experts that are chosen more in one set of texts than in another: to activate, and to deactivate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from probes.errors import UsageError
from probes.interventions import Spec, parse
from probes.interventions.base import flag
from probes.recipes.base import LAYERS, Asked, Option, Recipe, layers_of, top

if TYPE_CHECKING:
    import pandas as pd


def build(asked: Asked, options: dict[str, Any], words: dict[str, Any]) -> Iterator[Spec]:
    if not options["label"] or not options["against"]:
        raise UsageError("risk_difference compares two sets: risk_difference:label=ask=text,against=ask=memory")
    if options["activate"] + options["deactivate"] == 0:
        raise UsageError("risk_difference: nothing to activate and nothing to deactivate")
    pair = {name: options[name] for name in ("label", "against")}
    if options["ending"]:
        frame = at_the_end(asked, options["ending"], layers_of(options), **pair)
    else:
        frame = asked.analyze("risk_difference", layers=layers_of(options), **pair)
    frame = frame.assign(rd=-frame["rd"]) if options["reverse"] else frame
    sets = {
        "activate": top(frame[frame["rd"] > 0], "rd", options["activate"], per_layer=False),
        "deactivate": top(frame[frame["rd"] < 0], "rd", options["deactivate"], per_layer=False, highest=False),
    }
    named = {name: [list(pair) for pair in pairs] for name, pairs in sets.items() if pairs}
    if named:
        yield parse({"name": "steermoe", **words, **named})


def at_the_end(asked: Asked, count: int, layers: str | None, label: str, against: str) -> pd.DataFrame:
    """The metric over the last `count` tokens of every sequence."""
    from probes import metrics
    from probes.sources import TaggedSource, TraceSource

    source: TraceSource = asked.source(layers)
    names = [label, against]
    if tags := [name for name in names if "=" in name and name not in source.label_names]:
        source = TaggedSource(source, names, tags)
    parts = []
    for arrays in source.chunks(()):
        kept = _last(arrays.sequence_id, count)
        parts.append((arrays.experts[kept], arrays.sequence_id[kept], np.asarray(arrays.label)[kept]))
    experts, sequence_id, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
    about = {"num_experts": source.about.num_experts, "layers": source.about.layers}
    known = {"label": labels, "label_names": source.label_names, "first": label, "against": against}
    return metrics.risk_difference(experts, sequence_id=sequence_id, **about, **known)  # type: ignore[attr-defined]


def _last(sequence_id: np.ndarray, count: int) -> np.ndarray:
    """[T] bool: tokens of which fewer than `count` follow in their sequence.

    >>> _last(np.array([0, 0, 0, 1]), 2).tolist()
    [False, True, True, True]
    """
    ends = np.append(np.flatnonzero(np.diff(sequence_id)), len(sequence_id) - 1)
    return ends[np.searchsorted(ends, np.arange(len(sequence_id)))] - np.arange(len(sequence_id)) < count


RECIPE = Recipe(
    name="risk_difference",
    title="Experts of one behaviour against another",
    does="activates the experts that one set of texts chooses more than the other, and deactivates those it chooses "
    "less (the intervention steermoe)",
    source="SteerMoE, arXiv 2509.09660",
    build=build,
    options=(
        Option("label", str, "", "the texts to steer towards: a label, or key=value of their metadata"),
        Option("against", str, "", "the texts to steer away from, likewise"),
        Option("activate", int, 2, "how many experts to activate, those with the highest difference", low=0),
        Option("deactivate", int, 2, "how many to deactivate, those with the lowest", low=0),
        Option("reverse", flag, False, "the other way round"),
        Option("ending", int, 0, "count only the last so many tokens of every text; 0 is all of it", low=0),
        LAYERS,
    ),
    example="risk_difference:label=ask=text,against=ask=memory,activate=4,deactivate=4",
)
