"""What a decoding strategy is, declared once: a file per strategy holds `STRATEGY = Strategy(...)`.

A strategy runs each sequence as several copies in one batch, each copy steered in its own way, and makes one
distribution of what the copies say. Or it learns something before the first pass, and again every few tokens. Both as
records, so that the command line's options and the forms are read from them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from probes.errors import UsageError, unknown
from probes.metrics.registry import Option

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Strategy:
    """One way to choose tokens.

    copies    options -> how many copies of each sequence a pass holds; row b·copies + c is copy c of sequence b
    specs     (options, batch) -> interventions over those rows
    combine   (options, z [B, copies, V] float32) -> scores [B, V], whose softmax is the distribution of the next token
    lends     copy 0 gives its cache to the others after every pass
    learn     (model, options, tokenizer) -> a context that gives a `Learner`, or None; it lasts while decoding does
    neutral   options with which it is plain decoding exactly; it is then not carried out at all
    check     options: raises UsageError where they do not fit together
    cost      in words: what a token costs
    """

    name: str
    title: str
    does: str
    formula: str
    source: str
    cost: str
    options: tuple[Option, ...] = ()
    copies: Callable[[Options], int] = lambda options: 1
    specs: Callable[[Options, int], tuple[Any, ...]] = lambda options, batch: ()
    combine: Callable[[Options, Any], Any] = lambda options, z: z[:, 0]
    lends: bool = False
    learn: Callable[[Any, Options, Any], AbstractContextManager[Learner]] | None = None
    neutral: Options | None = None
    check: Callable[[Options], None] | None = None
    notes: str = ""

    def checked(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All options with their defaults; a wrong name or value is a UsageError."""
        known = {option.name: option for option in self.options}
        for name in given:
            if name not in known:
                raise unknown(f"option of {self.name}", str(name), known)
        try:
            options = {name: option.check(_split(option, given.get(name))) for name, option in known.items()}
        except UsageError as error:
            raise UsageError(f"{self.name}: {str(error).removeprefix('--')}") from None
        if self.check is not None:
            self.check(options)
        return options


class Learner:
    """What a learning strategy does while decoding.

    every           tokens after which it learns again; 0 is never
    forwards, rows  passes, and positions in them, that learning took so far
    """

    every = 0
    forwards = 0
    rows = 0

    def learn(self, ids: Any, mask: Any) -> None:
        """Learn from ids [B, S] and mask [B, S], left-padded."""
        raise NotImplementedError


@dataclass(frozen=True)
class Plan:
    """A strategy with its options."""

    strategy: Strategy
    options: Options = field(default_factory=dict)

    @property
    def is_plain(self) -> bool:
        """Do its options make it plain decoding?"""
        neutral = self.strategy.neutral
        return neutral is not None and all(self.options.get(name) == value for name, value in neutral.items())

    def as_dict(self) -> dict[str, Any]:
        """JSON-able; `parse_strategy` reads it back. What has its default is left out."""
        defaults = {option.name: option.default for option in self.strategy.options}
        changed = {name: value for name, value in self.options.items() if value != defaults[name]}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in changed.items()}
        return {"name": self.strategy.name, **plain}

    def __str__(self) -> str:
        """The inline form."""
        words = {name: value for name, value in self.as_dict().items() if name != "name"}
        pairs = [f"{k}={'+'.join(map(str, v)) if isinstance(v, list) else v}" for k, v in words.items()]
        return f"{self.strategy.name}:{','.join(pairs)}" if pairs else self.strategy.name


@dataclass(frozen=True)
class Decoded:
    """What decoding gave. B sequences, N new positions (as many as the longest took).

    ids        int [B, N]: the new tokens, padding after a sequence's end
    logprobs   float32 [B, N]: log-probability of each under the strategy's distribution (temperature 1); NaN at padding
    lengths    int [B]: new tokens of each sequence, the one that ended it included
    stopped    bool [B]: it ended by itself, not by `max_new_tokens`
    forwards   passes of the model, whatever their batch
    rows       positions the model computed, over all copies, padding and learning's own passes included
    seconds    wall time
    scores     float32 [B, N, V] if they were asked for, else None
    """

    ids: Any
    logprobs: Any
    lengths: Any
    stopped: Any
    forwards: int
    rows: int
    seconds: float
    scores: Any = None

    @property
    def rows_per_token(self) -> float:
        """Positions computed per new token."""
        return self.rows / max(1, int(self.lengths.sum()))


def parse_strategy(given: Any) -> Plan:
    """A plan from `ensemble:n=4,tau=0.5`, {"name": "ensemble", "n": 4}, a `Strategy` or a `Plan`."""
    from probes.interventions.decoding import strategy

    if isinstance(given, Plan):
        return given
    if isinstance(given, Strategy):
        return Plan(given, given.checked({}))
    words = dict(given) if isinstance(given, Mapping) else _inline(str(given))
    if not isinstance(words.get("name"), str) or not words["name"]:
        raise UsageError("a decoding strategy needs a name, as in 'ensemble:n=4'")
    declared = strategy(words.pop("name"))
    return Plan(declared, declared.checked(words))


def _inline(text: str) -> dict[str, Any]:
    name, _, rest = text.strip().partition(":")
    words: dict[str, Any] = {"name": name.strip()}
    for pair in filter(None, (p.strip() for p in rest.split(","))):
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"{pair!r} in {text!r} is no key=value, as in 'ensemble:n=4'")
        words[key.strip()] = value.strip()
    return words


def _split(option: Option, value: Any) -> Any:
    return value.split("+") if option.repeatable and isinstance(value, str) else value
