"""What a recipe is, declared once: a file per recipe holds `RECIPE = Recipe(...)`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from probes.errors import ProbeError, UsageError, unknown
from probes.interventions import Spec, parse
from probes.interventions.base import flag
from probes.interventions.spec import SINGULAR
from probes.metrics.registry import Option

if TYPE_CHECKING:
    import pandas as pd

    from probes.sources import TraceSource

Words = Mapping[str, Any]


@dataclass(frozen=True)
class Asked:
    """The recording a recipe asks: a path or an open trace, and a run of it (None: the newest complete one)."""

    trace: Any
    run_id: int | None = None

    def analyze(self, metric: str, **options: Any) -> pd.DataFrame:
        """The table of a metric over the run."""
        from probes.analysis import analyze

        return analyze(self.trace, metric, self.run_id, **options)

    def source(self, layers: str | None) -> TraceSource:
        """The run's own rows, for what no metric counts."""
        from probes.sources import TraceSource

        return TraceSource(self.opened, self.run_id, layers)

    @property
    def opened(self) -> Any:
        """The open trace."""
        from probes.sources import opened

        return opened(self.trace)

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of the run."""
        return tuple(self.opened.label_names(self.run_id))

    def label(self, name: str) -> str:
        """That label, or a UsageError with the nearest right one."""
        if name not in self.labels:
            raise unknown("label", name, self.labels)
        return name


@dataclass(frozen=True)
class Recipe:
    """One way from a metric to interventions.

    build    (recording, options, action words) -> specs
    action   the intervention it names experts for, unless `action=` says another; "" where it makes a certain one.
             What is no option of the recipe is one of the action's: boost takes factor, all take phase
    """

    name: str
    title: str
    does: str
    source: str
    build: Callable[[Asked, dict[str, Any], dict[str, Any]], Iterable[Spec]]
    options: tuple[Option, ...] = ()
    action: str = ""
    example: str = ""

    def specs(self, asked: Asked, words: Words) -> tuple[Spec, ...]:
        """The specs for `words`; UsageError for a wrong name or value."""
        known = {option.name: option for option in self.options}
        words = {SINGULAR.get(key, key): value for key, value in words.items()}
        rest = {key: value for key, value in words.items() if key not in known}
        if not self.action and "action" in rest:
            raise UsageError(f"{self.name} makes its own intervention; it takes no action")
        rest = {"action": self.action, **rest} if self.action else rest
        try:
            options = {name: _checked(option, words.get(name)) for name, option in known.items()}
        except UsageError as error:
            raise UsageError(f"{self.name}: {str(error).removeprefix('--')}") from None
        found = tuple(self.build(asked, options, rest))
        if not found:
            raise ProbeError(f"{self.name}: the recording names no expert for this")
        return found


def _checked(option: Option, value: Any) -> Any:
    return option.check(value.split("+") if option.repeatable and isinstance(value, str) else value)


def acting(pairs: Iterable[tuple[Any, Any]], words: dict[str, Any]) -> Spec:
    """The intervention `words["action"]` on (layer, expert) pairs, with the rest of the words as its own."""
    words = dict(words)
    experts = [[int(layer), int(expert)] for layer, expert in pairs]
    if not experts:
        raise ProbeError(f"{words['action']}: the recording names no expert for this")
    return parse({"name": words.pop("action"), **words, "experts": experts})


def top(frame: pd.DataFrame, column: str, count: int, per_layer: bool, highest: bool = True) -> list[tuple[int, int]]:
    """(layer, expert) of the `count` highest values of a table, of each layer or of all; equals by layer and id."""
    known = frame[frame[column].notna()]
    ordered = known.sort_values([column, "layer", "expert"], ascending=[not highest, True, True])
    chosen = ordered.groupby("layer", sort=False).head(count) if per_layer else ordered.head(count)
    return [(int(layer), int(expert)) for layer, expert in zip(chosen["layer"], chosen["expert"], strict=True)]


LAYERS = Option("layers", str, "", "only experts of these layers, as in 0-3+5")
PER_LAYER = Option("per_layer", flag, False, "so many of each layer, not of the whole model")


def layers_of(options: Mapping[str, Any]) -> str | None:
    """Layers as `analyze` takes them."""
    return options["layers"].replace("+", ",") or None
