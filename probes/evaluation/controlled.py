"""The controls of an evaluation: which ones each arm gets for each task, what they carry, or why there are none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from probes.errors import unknown
from probes.evaluation.arms import Arm, refusal_of
from probes.evaluation.drawing import CHOICE, COUNT, KINDS, LOAD, TOLERANCE, Drawn, Group, drawn, groups_of, sizes_of
from probes.evaluation.loads import Counts, Loads, where_of
from probes.interventions import Spec
from probes.parsing import number

UNKNOWN = "the loads of its experts are not known"


@dataclass(frozen=True)
class Ask:
    """Which controls are wanted: how many, matched by what ("load" or "count"), within which tolerance."""

    count: int
    seed: int = 0
    by: str = "load"
    tolerance: float = TOLERANCE

    def checked(self) -> Ask:
        """Itself, or a UsageError."""
        if self.by not in KINDS:
            raise unknown("control", str(self.by), KINDS)
        number(self.tolerance, "--control-tolerance", 0, 0.99)
        return self


@dataclass(frozen=True)
class Load:
    """What the experts named in one layer get. n: assignments to them; of: to all experts of the layer."""

    layer: int
    experts: tuple[int, ...]
    n: int
    of: int

    @property
    def share(self) -> float | None:
        return self.n / self.of if self.of else None


@dataclass(frozen=True)
class Matched:
    """The controls of one arm for one task (None: the same for all). Loads are of the evaluated tokens of the task.

    kind    what a control has in common with the arm: "load-matched", "count-matched" or "random choice"
    loads   of the arm, by layer; control_loads: of each control; empty where they are not known
    reason  why there are fewer controls than asked for, or none
    sizes   where controls name more or fewer experts than the arm, in words
    """

    arm: str
    task: str | None
    kind: str
    arms: list[Arm]
    loads: list[Load] = field(default_factory=list)
    control_loads: list[list[Load]] = field(default_factory=list)
    reason: str = ""
    tolerance: float | None = None
    sizes: str = ""

    @property
    def load(self) -> float | None:
        """The share of all assignments in the layers it names experts of, None where that is not known."""
        return share(self.loads)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able: every set with its loads."""
        controls = [
            {"arm": arm.name, "load": share(loads), "layers": _layers(loads)}
            for arm, loads in zip(self.arms, self.control_loads or [[]] * len(self.arms), strict=True)
        ]
        return {
            **{name: getattr(self, name) for name in ("arm", "task", "kind", "tolerance", "load")},
            "unit": "share of the assignments of the evaluated tokens",
            "layers": _layers(self.loads),
            "controls": controls,
            "sizes": self.sizes or None,
            "reason": self.reason or None,
        }

    def sentence(self) -> str:
        """One line for people."""
        where = f"{self.task}: " if self.task else ""
        if self.kind == CHOICE:
            return f"{where}{self.arm}: controls choose each token's experts at random, in the same scope"
        own = (
            "" if self.load is None else f": {_percent(self.load)} of {sum(one.of for one in self.loads):,} assignments"
        )
        beside = [s for loads in self.control_loads if (s := share(loads)) is not None]
        theirs = f"; theirs: {', '.join(map(_percent, beside))}" if beside else ""
        within = (
            f" within {100 * self.tolerance:g} % of its load"
            if self.kind == LOAD and self.tolerance is not None
            else ""
        )
        count = f"{len(self.arms)} {self.kind} control{'' if len(self.arms) == 1 else 's'}{within}" if self.arms else ""
        said = "; ".join(part for part in (count and f"{count}{own}{theirs}", self.sizes, self.reason) if part)
        return f"{where}{self.arm}: {said}"


def share(loads: Sequence[Load]) -> float | None:
    """Of several layers together."""
    total = sum(one.of for one in loads)
    return sum(one.n for one in loads) / total if total else None


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _layers(loads: Sequence[Load]) -> list[dict[str, Any]]:
    return [{**asdict(one), "experts": list(one.experts), "share": one.share} for one in loads]


def controls_of(
    arms: Sequence[Arm],
    tasks: Sequence[str],
    routers: Mapping[int, int],
    ask: Ask,
    loads: Loads,
    model: Any,
    tokenizer: Any = None,
) -> list[Matched]:
    """The controls of every arm: of one that names experts for each task, of any other once for all."""
    refusal = refusal_of(model, tokenizer)
    found = []
    for arm in arms:
        where = where_of(arm, routers, tokenizer)
        if where is None:
            made = drawn(arm, routers, ask.count, ask.seed, refusal=refusal)
            found += [Matched(arm.name, None, made.kind, made.arms, reason=made.reason)] if made.kind else []
            continue
        for task in tasks if ask.count else []:
            found.append(_matched(arm, task, len(tasks) > 1, routers, ask, loads.of(task, where), refusal))
    return found


def _matched(
    arm: Arm,
    task: str,
    several: bool,
    routers: Mapping[int, int],
    ask: Ask,
    counts: Counts,
    refusal: Callable[[tuple[Spec, ...]], str],
) -> Matched:
    groups = groups_of(arm, routers)
    known = all(group.layer in counts and counts[group.layer].sum() for group in groups)
    by_load = ask.by == "load" and known
    made = drawn(
        arm,
        routers,
        ask.count,
        ask.seed,
        counts=counts if by_load else None,
        tolerance=ask.tolerance,
        refusal=refusal,
    )
    reason = "; ".join(filter(None, [UNKNOWN if ask.by == "load" and not known else "", made.reason]))
    own, theirs = _loads(arm, groups, made, counts) if known else ([], [])
    arms = [replace(one, task=task, name=_name(one, task, several)) for one in made.arms]
    sizes = sizes_of(groups, made.sets)
    return Matched(arm.name, task, made.kind, arms, own, theirs, reason, ask.tolerance if by_load else None, sizes)


def _name(control: Arm, task: str, several: bool) -> str:
    """A control of one task among several says of which."""
    return f"{control.name[:-1]}, {task})" if several else control.name


def _loads(arm: Arm, groups: Sequence[Group], made: Drawn, counts: Counts) -> tuple[list[Load], list[list[Load]]]:
    named: dict[int, tuple[int, ...]] = {}
    for group in groups:
        named[group.layer] = (*named.get(group.layer, ()), *group.experts)
    return _load(named, counts), [_load(one, counts) for one in made.sets]


def _load(named: Mapping[int, Sequence[int]], counts: Counts) -> list[Load]:
    return [
        Load(layer, tuple(sorted(some)), int(counts[layer][list(some)].sum()), int(counts[layer].sum()))
        for layer, some in sorted(named.items())
    ]


__all__ = ["COUNT", "LOAD", "Ask", "Load", "Matched", "controls_of", "share"]
