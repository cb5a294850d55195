"""The controls of an arm: the same interventions on other experts, of the same load or at least as many.

The experts that an arm names in a layer are exchanged in groups: those that it names in the same places go together,
so that an expert that is banned and boosted is exchanged for one that is banned and boosted. A load is a count of
assignments by the baseline, over the tokens that are evaluated and on which the arm acts.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from probes.evaluation.arms import Arm, experts_in
from probes.evaluation.matching import ENOUGH, MOST, Experts, Sets, same_load, same_size
from probes.interventions import Spec, intervention, parse_all
from probes.interventions.values import experts_at, pairs_in

LOAD, COUNT, CHOICE = "load-matched", "count-matched", "random choice"
KINDS = {"load": LOAD, "count": COUNT}
TOLERANCE = 0.1
TRIES = 50  # draws per control that is asked for, until no new one is expected

Counts = Mapping[int, np.ndarray]  # layer -> assignments of each expert [E]
Fits = Callable[[tuple[Spec, ...]], str]  # why interventions do not fit the model; "" if they do
Swap = dict[int, dict[int, Experts]]  # layer -> expert -> those in its place


@dataclass(frozen=True)
class Group:
    """Experts of one layer that are exchanged together. resize: others may be more or fewer."""

    layer: int
    experts: Experts
    resize: bool


@dataclass(frozen=True)
class Drawn:
    """The controls of an arm. kind: what they have in common with it; reason: why there are fewer than asked for."""

    kind: str
    arms: list[Arm]
    sets: list[dict[int, Experts]]  # of each control: layer -> the experts it names
    reason: str = ""


def drawn(
    arm: Arm,
    routers: Mapping[int, int],
    count: int,
    seed: int = 0,
    *,
    counts: Counts | None = None,
    tolerance: float = TOLERANCE,
    refusal: Fits | None = None,
) -> Drawn:
    """Up to `count` different controls, none of which does what the arm does.

    routers   layer -> number of experts
    counts    loads to be matched within `tolerance` times their own; None: as many experts, whatever they carry
    refusal   says why a control cannot be carried out (too few experts left, say); such ones are not drawn
    """
    if not arm.specs or not count:
        return Drawn("", [], [])
    groups = groups_of(arm, routers)
    if not groups:
        made = [_with_random_choice(arm.specs, s) for s in range(seed, seed + count)]
        return Drawn(CHOICE, _named(arm, made, seed), [{}] * count)
    kind = COUNT if counts is None else LOAD
    sets = [_sets(arm, group, routers, counts, tolerance, seed) for group in groups]
    lacking = [(group, found) for group, found in zip(groups, sets, strict=True) if not found.fitting]
    if lacking:
        return Drawn(kind, [], [], _nothing_fits(*lacking[0], counts, tolerance))
    swaps, why = _swaps(arm, groups, [found.fitting for found in sets], count, seed, routers, refusal)
    every = all(found.every for found in sets)
    reason = "" if len(swaps) == count else _too_few(kind, len(swaps), why, every)
    made = [tuple(_renamed(spec, swap, routers) for spec in arm.specs) for swap in swaps]
    return Drawn(kind, _named(arm, made, seed), [_experts(swap) for swap in swaps], reason)


def groups_of(arm: Arm, routers: Mapping[int, int]) -> list[Group]:
    """The experts an arm names, by layer and by the places where it names them."""
    places: dict[tuple[int, int], list[tuple[int, str]]] = {}
    for number, spec in enumerate(arm.specs):
        for layer, expert, place in _places(spec, routers):
            places.setdefault((layer, expert), []).append((number, place))
    together: dict[tuple[int, tuple[tuple[int, str], ...]], list[int]] = {}
    for (layer, expert), some in places.items():
        together.setdefault((layer, tuple(some)), []).append(expert)
    return [
        Group(layer, tuple(experts), all(_resizable(arm.specs[n], place) for n, place in some))
        for (layer, some), experts in sorted(together.items())
    ]


def sizes_of(groups: Sequence[Group], controls: Sequence[Mapping[int, Experts]]) -> str:
    """Where controls name more or fewer experts than the arm: "layer 3: 3 experts instead of 2"; "" where none does."""
    said = []
    for layer in dict.fromkeys(group.layer for group in groups):
        own = sum(len(group.experts) for group in groups if group.layer == layer)
        theirs = sorted({len(sets[layer]) for sets in controls})
        if theirs and theirs != [own]:
            ends = dict.fromkeys((theirs[0], theirs[-1]))
            said.append(f"layer {layer}: {' to '.join(map(str, ends))} experts instead of {own}")
    return ", ".join(said)


def _places(spec: Spec, routers: Mapping[int, int]) -> Iterator[tuple[int, int, str]]:
    """(layer, expert, where it is named): in the scope ("experts"), or in an option."""
    layers = routers if spec.scope.layers is None else spec.scope.layers
    named = {"experts": list(spec.scope.experts)}
    named |= {name: pairs_in(spec.options.get(name)) for name in intervention(spec.name).naming}
    for place, pairs in named.items():
        yield from ((layer, expert, place) for layer in layers for expert in experts_at(pairs, layer))


def _resizable(spec: Spec, place: str) -> bool:
    """Not where each expert has an entry of its own, or where their number is what the intervention sets."""
    return not isinstance(spec.options.get(place), Mapping) and place not in intervention(spec.name).sized


def _sets(
    arm: Arm, group: Group, routers: Mapping[int, int], counts: Counts | None, tolerance: float, seed: int
) -> Sets:
    pool = _pool(arm, group.layer, len(group.experts), routers)
    rng = np.random.default_rng([seed, group.layer, *group.experts])
    if len(pool) < len(group.experts) and (counts is None or not group.resize):
        return Sets([])
    if counts is None:
        return same_size(group.experts, pool, rng)
    return same_load(group.experts, pool, counts[group.layer], tolerance, rng, resize=group.resize)


def _pool(arm: Arm, layer: int, size: int, routers: Mapping[int, int]) -> list[int]:
    """Who may be drawn: nobody the arm names, unless it is a keep-list or names most of the layer."""
    named = {e for spec in arm.specs for e in experts_in(spec, routers).get(layer, ())}
    receiving = {spec.options.get(intervention(spec.name).receives) for spec in arm.specs}
    everybody = [e for e in range(routers[layer]) if e not in receiving]
    rest = [e for e in everybody if e not in named]
    # The complement of a keep-list would be the worst list there is, not a random one.
    keeps = any(intervention(spec.name).keeps for spec in arm.specs)
    return everybody if keeps or len(rest) < size else rest


def _swaps(
    arm: Arm,
    groups: Sequence[Group],
    sets: Sequence[Sequence[Experts]],
    count: int,
    seed: int,
    routers: Mapping[int, int],
    refusal: Fits | None,
) -> tuple[list[Swap], str]:
    """(up to `count` exchanges that differ in the experts they name, why the last one was refused)."""
    rng = random.Random(f"control-{seed}")  # noqa: S311 - a draw of experts, no secret
    found: list[Swap] = []
    why = ""
    for combination in _combinations(groups, sets, count, rng):
        swap = _swap(groups, combination, rng)
        why = refusal(tuple(_renamed(spec, swap, routers) for spec in arm.specs)) if refusal else ""
        if not why:
            found.append(swap)
        if len(found) == count:
            break
    return found, why


def _combinations(
    groups: Sequence[Group], sets: Sequence[Sequence[Experts]], count: int, rng: random.Random
) -> Iterator[tuple[Experts, ...]]:
    """A set for each group, in random order, no combination twice; groups of one layer share no expert."""
    layers = [_of_layer(groups, sets, layer, rng) for layer in dict.fromkeys(group.layer for group in groups)]
    if math.prod(map(len, layers)) <= TRIES * ENOUGH:
        each = list(itertools.product(*layers))
        rng.shuffle(each)
        yield from (tuple(itertools.chain(*one)) for one in each)
        return
    seen = set()
    for _ in range(TRIES * count):
        one = tuple(itertools.chain(*(rng.choice(some) for some in layers)))
        if one not in seen:
            seen.add(one)
            yield one


def _of_layer(
    groups: Sequence[Group], sets: Sequence[Sequence[Experts]], layer: int, rng: random.Random
) -> list[tuple[Experts, ...]]:
    """The combinations of one layer's groups: all, or some that were drawn where there are very many."""
    some = [one for group, one in zip(groups, sets, strict=True) if group.layer == layer]
    if math.prod(map(len, some)) <= MOST:
        return [one for one in itertools.product(*some) if _apart(one)]
    drawn_ = (tuple(rng.choice(one) for one in some) for _ in range(MOST))
    return list(itertools.islice((one for one in dict.fromkeys(drawn_) if _apart(one)), ENOUGH))


def _apart(sets: Sequence[Experts]) -> bool:
    named = [expert for some in sets for expert in some]
    return len(named) == len(set(named))


def _swap(groups: Sequence[Group], combination: Sequence[Experts], rng: random.Random) -> Swap:
    """Who stands for whom; the first expert of a group stands for what a larger set has more."""
    swap: Swap = {}
    for group, some in zip(groups, combination, strict=True):
        order = rng.sample(some, len(some))
        more = max(0, len(order) - len(group.experts))
        row = swap.setdefault(group.layer, {})
        for i, expert in enumerate(group.experts):
            row[expert] = tuple(order[: more + 1]) if i == 0 else tuple(order[more + i : more + i + 1])
    return swap


def _experts(swap: Swap) -> dict[int, Experts]:
    return {layer: tuple(sorted({e for some in row.values() for e in some})) for layer, row in swap.items()}


def _named(arm: Arm, made: Sequence[tuple[Spec, ...]], seed: int) -> list[Arm]:
    return [
        replace(arm, name=f"{arm.name} (control {s})", specs=specs, control_of=arm.name, seed=s)
        for s, specs in enumerate(made, seed)
    ]


def _renamed(spec: Spec, swap: Swap, routers: Mapping[int, int]) -> Spec:
    layers = [*(routers if spec.scope.layers is None else spec.scope.layers)]
    pairs = tuple((la, new) for la in sorted(layers) for new in _exchanged(spec.scope.experts, la, swap))
    changed = {
        name: _renamed_option(spec.options[name], swap, layers)
        for name in intervention(spec.name).naming
        if spec.options.get(name)
    }
    return replace(spec, scope=replace(spec.scope, experts=pairs), options={**spec.options, **changed})


def _exchanged(pairs: Any, layer: int, swap: Swap) -> list[int]:
    return [new for e in experts_at(pairs, layer) for new in swap[layer][e]]


def _renamed_option(value: Any, swap: Swap, layers: Sequence[int]) -> Any:
    """A list of "layer.expert" or a table {layer: {expert: …}}, whose rows may name experts themselves."""
    if not isinstance(value, Mapping):
        pairs = pairs_in(value)
        return tuple(f"{la}.{new}" for la in sorted(layers) for new in _exchanged(pairs, la, swap))

    def renamed(row: Mapping[str, Any], exchange: Mapping[int, Experts]) -> dict[str, Any]:
        inner = ((e, renamed(v, exchange) if isinstance(v, Mapping) else v) for e, v in row.items())
        return {str(exchange.get(int(e), (int(e),))[0]): v for e, v in inner}

    return {layer: renamed(row, swap.get(int(layer), {})) for layer, row in value.items()}


def _with_random_choice(specs: tuple[Spec, ...], seed: int) -> tuple[Spec, ...]:
    scopes = dict.fromkeys(replace(spec.scope, experts=(), seed=seed) for spec in specs)
    return tuple(replace(parse_all("random")[0], scope=scope) for scope in scopes)


def _nothing_fits(group: Group, found: Sets, counts: Counts | None, tolerance: float) -> str:
    where = f"layer {group.layer}, {experts_said(group.experts)}"
    if counts is None:
        return f"no count-matched control exists: {where}: there is no other set of as many experts"
    total = counts[group.layer].sum()
    own = counts[group.layer][list(group.experts)].sum() / total
    said = "exists" if found.every else "was found"
    text = f"no load-matched control {said} within {100 * tolerance:g} % of its load: {where}: "
    text += f"{100 * own:.1f} % of the assignments"
    if found.nearest is None:
        return f"{text}, and there is no other set of experts to draw"
    near = counts[group.layer][list(found.nearest)].sum() / total
    many = f"{len(found.nearest)} experts" if len(found.nearest) > 6 else experts_said(found.nearest)
    return f"{text}; the nearest other set has {100 * near:.1f} % ({many})"


def _too_few(kind: str, count: int, why: str, every: bool) -> str:
    if not count and why:
        return f"no {kind} control can be carried out ({why})"
    if not count:
        return f"no {kind} control was found: the sets nearest in size that fit share experts"
    sets = "set exists" if count == 1 else "sets exist" if every else "sets were found"
    return f"only {count} different {kind} {sets}"


def experts_said(experts: Sequence[int]) -> str:
    """
    >>> experts_said((3,)), experts_said((1, 4))
    ('expert 3', 'experts 1, 4')
    """
    return f"expert{'s' if len(experts) > 1 else ''} {', '.join(map(str, experts))}"
