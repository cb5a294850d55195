"""What a metric is, declared once: a file per metric holds `METRIC = Metric(...)`, found by listing this package.

From that record come the Python function `probes.metrics.<name>`, the options of `probe analyze <name>`, the rows of
docs/metrics.md and the dashboard's menus. Counts first, ratios last: `count` makes additive arrays whose first axis is
the group (everything, a label, or a single sequence while resampling); `table` turns their sum into rows.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from probes import parsing
from probes.errors import UsageError, unknown

# What a recording must hold for an array to be there, by the level of `probe record --capture` that keeps it.
LEVELS = {
    "weights": "weights",
    "logits": "logits",
    "other_logits": "logits",
    "output_norm": "norms",
    "output_absmax": "norms",
    "input_absmax": "norms",
    "predicted_id": "predictions",
    "similarity": "hidden",
    "hidden_absmax": "hidden",
    "hidden_absmedian": "hidden",
    "expert_norm": "every_norm",
    "shared_absmax": "shared",
    "shared_input_absmax": "shared",
    "output_count": "moments",
    "output_mean": "moments",
    "output_m2": "moments",
    "router_input": "router_inputs",
}

# Too dear to be kept for a metric that reads it with one of its options only; kept when named.
BY_NAME = ("every_norm",)

Counts = dict[str, Any]
Options = dict[str, Any]


@dataclass(frozen=True)
class Option:
    """One option of a metric: a keyword in Python, `--name-with-dashes` on the command line."""

    name: str
    type: Callable[[Any], Any]  # a type, or a function that reads one
    default: Any
    help: str
    choices: tuple[Any, ...] = ()
    low: float | None = None
    high: float | None = None
    repeatable: bool = False
    metavar: str = ""
    keyword: str = ""  # in the pure function, where the name is already that of an array
    note: str = ""  # said on the command line when it is given: an old name that has a better one

    @property
    def kind(self) -> str:
        """The name of its type."""
        return getattr(self.type, "__name__", str(self.type))

    @property
    def flag(self) -> str:
        """`--segment-length` for `segment_length`."""
        return "--" + self.name.replace("_", "-")

    def check(self, value: Any) -> Any:
        """The value in its own type (a tuple where the option repeats), or a UsageError naming what is allowed."""
        if value is None:
            return self.default
        if not self.repeatable:
            return self._one(value)
        values = [value] if isinstance(value, str) or not hasattr(value, "__iter__") else list(value)
        if not values:
            return self.default
        return tuple(dict.fromkeys(self._one(v) for v in values))

    def _one(self, value: Any) -> Any:
        value = self._typed(value)
        if self.choices and value not in self.choices:
            raise unknown(f"value for {self.flag}", str(value), [str(c) for c in self.choices])
        too_low = self.low is not None and not value >= self.low
        if too_low or (self.high is not None and not value <= self.high):
            raise UsageError(f"{self.flag} must be {self.range_text()}, not {value}")
        return value

    def _typed(self, value: Any) -> Any:
        if self.type is int and not isinstance(value, str):
            return parsing.whole(value, self.flag, None)
        if self.type is float:
            return parsing.number(value, self.flag)
        try:
            return parsing.int_of(value) if self.type is int else self.type(value)
        except (TypeError, ValueError):
            raise UsageError(f"{self.flag} takes {self.kind}, not {value!r}") from None

    def range_text(self) -> str:
        """The allowed range in words."""
        if self.low is not None and self.high is not None:
            return f"between {self.low:g} and {self.high:g}"
        return f"at least {self.low:g}" if self.low is not None else f"at most {self.high:g}"


@dataclass(frozen=True)
class Column:
    """One output column: what the number is, in which unit, and between which ends it lies."""

    name: str
    unit: str
    description: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Metric:
    """One question about routing, with everything that is said about it anywhere.

    needs       arrays it reads beside `experts`: a tuple, or a function of the options; "logits?" = where there are any
    count       (chunk, options) -> counts; arrays with the group as first axis, additive over chunks of whole sequences
    table       (counts, options, about) -> DataFrame, its index the position in `estimate` (row identity)
    estimate    (counts, options, about) -> the main value [..., rows], resamples as leading axis; None: no intervals
    aggregates  (aggregates, options, about) -> counts, where the trace's stored sums are enough
    sums        which of the trace's stored sums beside count and tokens `aggregates` looks at
    groups      options -> what the metric itself compares ("label", "token", "predicted", "next"), or None
    by          what `--by` may name
    check       (options, about): raises UsageError where options do not fit together or the trace
    merge       how two counts become one, where that is not addition
    second      (counts, options, about) -> options of a second pass over the trace, or None
    cells       (options, about) -> how many numbers `count` makes per group, where they are many
    token_intervals  (TokenDraws, counts, options, about) -> (low, high) along `table`'s index, where groups are tokens
    draws       (sums, groups, options, about) -> [resamples, rows], where `estimate` of each would be too slow
    tags        options that name a label, or a tag of the sequences' metadata as "key=value"
    compares    (options, labels) -> the labels whose difference `--test` tests against noise, or None for these options
    paired      compares two runs of the same tokens (`--against RUN`; `other_experts` in Python)
    across      can compare two runs of any tokens as it compares labels (`--against RUN`)
    value       the column `estimate` computes
    laws        names of laws (see laws.py) it obeys;  ends: values it must take on uniform and one-hot routing
    """

    name: str
    title: str
    question: str
    formula: str
    source: str
    columns: tuple[Column, ...]
    count: Callable[..., Counts]
    table: Callable[..., Any]
    options: tuple[Option, ...] = ()
    needs: tuple[str, ...] | Callable[[Options], tuple[str, ...]] = ()
    estimate: Callable[..., Any] | None = None
    aggregates: Callable[..., Counts | None] | None = None
    sums: tuple[str, ...] = ()
    groups: Callable[[Options], str | None] = lambda options: None
    by: tuple[str, ...] = ("label",)
    merge: Callable[[Counts, Counts], Counts] | None = None
    second: Callable[..., Options | None] | None = None
    check: Callable[[Options, Any], None] | None = None
    cells: Callable[[Options, Any], int] | None = None
    draws: Callable[..., Any] | None = None
    token_intervals: Callable[..., tuple[Any, Any]] | None = None
    tags: tuple[str, ...] = ()
    compares: Callable[[Options, tuple[str, ...]], tuple[str, ...] | None] | None = None
    paired: bool = False
    across: bool = False
    value: str = ""
    laws: tuple[str, ...] = ()
    ends: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: str = ""

    def needed(self, options: Options) -> tuple[str, ...]:
        """The arrays it reads beside `experts`, for these options."""
        return tuple(self.needs(options)) if callable(self.needs) else self.needs

    def levels(self) -> tuple[str, ...]:
        """The capture levels that it reads, with any of its options: what `--capture for=METRIC` keeps."""
        variants = [options for options in self._variants() if not self._levels(options) & set(BY_NAME)]
        names = [name.rstrip("?") for options in variants for name in self.needed(options)]
        names += ["predicted_id"] if any(self.groups(options) == "predicted" for options in variants) else []
        return tuple(dict.fromkeys(LEVELS[name] for name in names if name in LEVELS))

    def _levels(self, options: Options) -> set[str]:
        return {LEVELS.get(name.rstrip("?"), "") for name in self.needed(options)}

    def _variants(self) -> list[Options]:
        """Its defaults, and each choice of each option beside them."""
        usual = self.checked({})
        choices = [(o, choice) for o in self.options for choice in (o.choices or ((True,) if o.type is bool else ()))]
        several = ((o, (choice,) if o.repeatable else choice) for o, choice in choices)
        return [usual, *({**usual, option.name: value} for option, value in several)]

    def who_needs(self, array: str, options: Options) -> str:
        """`expert_importance easy_ep`: the metric, and the choice of an option that is to blame for the need."""
        for option in self.options:
            chosen = options[option.name] if option.repeatable else (options[option.name],)
            for value in chosen if option.choices else ():
                one = {**options, option.name: (value,) if option.repeatable else value}
                others = [c for c in option.choices if c != value]
                without = [{**options, option.name: (c,) if option.repeatable else c} for c in others]
                if array in self.needed(one) and not all(array in self.needed(o) for o in without):
                    return f"{self.name} {value}"
        return self.name

    def option(self, name: str) -> Option:
        """The option of that name, or a UsageError with the nearest right one."""
        known = {o.name: o for o in self.options}
        if name not in known:
            raise unknown(f"option of {self.name}", name, known)
        return known[name]

    def checked(self, given: Mapping[str, Any]) -> Options:
        """All options with their defaults; a wrong name or value is a UsageError."""
        for name in given:
            self.option(name)
        return {o.name: o.check(given.get(o.name)) for o in self.options}


@cache
def discover() -> dict[str, Metric]:
    """Every metric of this package by name: each module with a `METRIC` is one."""
    package = importlib.import_module("probes.metrics")
    names = (
        m.name for m in pkgutil.iter_modules(package.__path__) if m.name != "document"
    )  # which is run as a program
    modules = (importlib.import_module(f"probes.metrics.{name}") for name in names)
    found = (m.METRIC for m in modules if hasattr(m, "METRIC"))
    return {metric.name: metric for metric in sorted(found, key=lambda m: m.name)}


def get(name: str) -> Metric:
    """The metric of that name, or a UsageError with the nearest right one."""
    metrics = discover()
    key = str(name).replace("-", "_")
    if key not in metrics:
        raise unknown("metric", str(name), metrics)
    return metrics[key]
