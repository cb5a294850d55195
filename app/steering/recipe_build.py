"""Interventions from what a recording says, within what someone who looks at a page can wait for.

A recipe asks metrics of the trace. Here each is asked of a bounded, evenly drawn part where the stored sums do not
answer, and the answer is kept as long as the file is what it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from app import data
from app.formats import plural
from probes.errors import ProbeError
from probes.evaluation.arms import experts_in
from probes.interventions import Spec, intervention
from probes.recipes import Asked, recipe
from probes.sampling import Sample

if TYPE_CHECKING:
    from probes.sources import TraceSource

LONGEST_LIST = 8  # entries of a list that a preview shows; mean outputs have thousands
LONGEST_PREVIEW = 3_000  # characters


@dataclass(frozen=True)
class Built:
    """What a recipe gave, and how much of the recording it rests on."""

    specs: tuple[Spec, ...]
    samples: tuple[Sample, ...]

    @property
    def smallest(self) -> Sample | None:
        """The part of the recording that least was read of; None where only stored sums were."""
        return min(self.samples, key=lambda one: one.n_tokens, default=None)


@dataclass(frozen=True)
class Bounded(Asked):
    """A recording of which a bounded part is read."""

    run_id: int = 0
    samples: list[Sample] = field(default_factory=list)

    def analyze(self, metric: str, **options: Any) -> pd.DataFrame:
        table, sample = data.analysis(self.trace, self.run_id, metric, **options)
        self.samples.append(sample)
        return table

    @property
    def opened(self) -> Any:
        return data.open_file(self.trace)

    def source(self, layers: str | None) -> TraceSource:
        from probes.sources import TraceSource

        drawn, n_tokens = data.drawn(self.trace, self.run_id)
        run = self.opened.run(self.run_id)
        of = (len(drawn), int(run["n_sequences"]), n_tokens, int(run["n_tokens"]))
        self.samples.append(Sample("all" if of[0] == of[1] else "sample", None, *of))
        return TraceSource(self.opened, self.run_id, layers, drawn)


# A resource and not data: specs are never changed, and one with mean outputs is large to copy for every rerun.
@st.cache_resource(show_spinner="The recording is asked …", max_entries=8)
def _built(trace: data.TraceFile, run_id: int, name: str, words: tuple[tuple[str, Any], ...]) -> Built:
    asked = Bounded(trace, run_id)
    return Built(recipe(name).specs(asked, dict(words)), tuple(asked.samples))


def built(trace: data.TraceFile, run_id: int, name: str, words: Mapping[str, Any]) -> Built | str:
    """What the recipe called `name` gives, or the line that says what the recording lacks or the options miss."""
    try:
        return _built(trace, run_id, name, tuple(words.items()))
    except ProbeError as error:
        return str(error)


def says(specs: tuple[Spec, ...], routers: Mapping[int, int]) -> str:
    """How many experts of how many layers are named. routers: layer -> its number of experts."""
    return " ".join(_says(spec, routers) for spec in specs)


def _says(spec: Spec, routers: Mapping[int, int]) -> str:
    named = {layer: experts for layer, experts in experts_in(spec, routers).items() if layer in routers}
    n, where = sum(map(len, named.values())), plural(len(named), "layer")
    declared = intervention(spec.name)
    if declared.keeps:
        whole = sum(routers[layer] for layer in named)
        return f"{declared.title}: keeps {n} of {plural(whole, 'expert')} in {where}."
    few = [f"{layer}·{expert}" for layer, experts in named.items() for expert in experts]
    listed = f": {', '.join(few)}" if len(few) <= LONGEST_LIST else ""
    return f"{declared.title}: {plural(n, 'expert')} in {where}{listed}."


def preview(specs: tuple[Spec, ...]) -> str:
    """The specs as YAML with long lists cut short, to look at before they are added."""
    import yaml

    short = [{name: _short(value) for name, value in spec.as_dict().items()} for spec in specs]
    text = yaml.safe_dump(short, allow_unicode=True, sort_keys=False, default_flow_style=None, width=34)
    return text if len(text) <= LONGEST_PREVIEW else f"{text[:LONGEST_PREVIEW]}\n…"


def _short(value: Any) -> Any:
    """The first few entries of a list or a table, and how many more there are; numbers rounded."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if not isinstance(value, (list, tuple, Mapping)):
        return value
    left = len(value) - LONGEST_LIST
    if isinstance(value, Mapping):
        rows = {name: _short(inner) for name, inner in list(value.items())[:LONGEST_LIST]}
        return rows | ({"…": f"{left} more"} if left > 0 else {})
    return [*map(_short, value[:LONGEST_LIST]), *([f"… {left} more"] if left > 0 else [])]
