"""Everything of ours that is on a model at the same time, hooked in one order however it was entered.

Captures, interventions and predictions on the same model share one `Stage`. It marks where a pass begins and ends,
reads what the pass was given, and keeps the hooks in order: edits first, then what looks at them. So a `capture`
outside a `steer` sees the same routing as one inside. While something else is to be run (a self-test), all hooks step
aside.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from threading import get_ident
from typing import Any
from weakref import WeakKeyDictionary

from probes.capture.hooks import Hooks, lock_of
from probes.capture.inputs import Inputs, Level, read_levels
from probes.capture.within import chain, core_of, language_model, named
from probes.errors import ProbeError
from probes.families.layout import Point

# Continuous batching packs the sequences of many requests into one row, in a thread of its own.
PACKED = ("generate_batch", "init_continuous_batching", "continuous_batching_context_manager")

_STAGES: WeakKeyDictionary[Any, Stage] = WeakKeyDictionary()


class Member:
    """Something that watches or edits the passes of a model; what it does not need it leaves as it is.

    rank     members of a lower rank are hooked first
    model    what it was given as the model; passes are seen from its outermost wrapper inwards
    roots    the modules whose passes it is told of
    drops    layers in which it makes a weight of 0 stand for no expert
    """

    rank = 1
    model: Any = None
    roots: Sequence[Any] = ()
    drops: frozenset[int] = frozenset()

    def points(self) -> list[Point]:
        """Its hooks inside of a pass, made anew each time the hooks are put on."""
        return []

    def begin(self, root: Any, inputs: Inputs) -> None:
        """A pass of `root` begins."""

    def end(self, root: Any, inputs: Inputs) -> None:
        """It ended."""

    def failed(self, root: Any) -> None:
        """It ended in an exception."""

    def returned(self, module: Any, output: Any) -> None:
        """A module around the root returned, with the pass inside it over."""

    def elsewhere(self) -> None:
        """A pass ran in another thread, or in none that was seen to begin."""


class Stage:
    """The members that are on one model, and the pass that is running."""

    def __init__(self, core: Any) -> None:
        self.members: list[Member] = []
        self._installed: ExitStack | None = None
        self._owner = get_ident()
        self._levels: list[Level] = []
        self._open: dict[int, Inputs] = {}
        self._told: list[int] = []
        self._waiting = 0  # how many sets of members stand aside

    @property
    def idle(self) -> bool:
        """Is nobody on it, and nothing told?"""
        return not (self.members or self._told or self._levels or self._waiting)

    @property
    def drops(self) -> frozenset[int]:
        """Layers in which a weight of 0 stands for no expert."""
        return frozenset().union(*(member.drops for member in self.members))

    def together(self, kind: type) -> int:
        """How many members of this kind there are."""
        return sum(isinstance(member, kind) for member in self.members)

    def change(self, gone: Member | None, new: Member | None) -> None:
        """Take one member off, put another one on, and hook everything anew; after an error nothing has changed."""
        before = list(self.members)
        self._off()
        try:
            self.members = [*(m for m in before if m is not gone), *([new] if new is not None else [])]
            self._on()
        except BaseException:
            self.members = before
            self._on()
            raise

    def _on(self) -> None:
        if not self.members:
            return
        self._owner = get_ident()
        with ExitStack() as stack:
            for module in self._around():
                stack.enter_context(_methods(module, self._wrappers(module)))
            stack.enter_context(Hooks(self._points()))
            self._installed = stack.pop_all()

    def _off(self) -> None:
        if self._installed is not None:
            self._installed.close()
            self._installed = None

    @contextmanager
    def aside(self) -> Iterator[None]:
        """The model without any of our hooks meanwhile."""
        members, levels, told = self.members, self._levels, self._told
        self._off()
        self.members, self._levels, self._told = [], [], []
        self._waiting += 1
        try:
            yield
        finally:
            self._off()
            self._waiting -= 1
            self.members, self._levels, self._told = members, levels, told
            self._on()

    @contextmanager
    def prompt(self, length: int) -> Iterator[None]:
        """Passes meanwhile are of texts whose first `length` positions, padding included, were given."""
        self._told.append(length)
        try:
            yield
        finally:
            self._told.pop()

    def _around(self) -> list[Any]:
        """Every module from the members' outermost wrappers to their roots, the roots left out."""
        roots = {id(root) for member in self.members for root in member.roots}
        found: dict[int, Any] = {}
        for member in self.members:
            for module in chain(member.model):
                if id(module) not in roots:
                    found[id(module)] = module
        return list(found.values())

    def _roots(self) -> list[Any]:
        return list({id(root): root for member in self.members for root in member.roots}.values())

    def _points(self) -> list[Point]:
        points = []
        for module in self._around():
            points += [Point(module, "before", self._enter), Point(module, "always", self._leave)]
        for root in self._roots():
            points.append(Point(root, "before", self._begin))
        for member in sorted(self.members, key=lambda m: m.rank):
            points += member.points()
        return points + [Point(root, "always", self._end) for root in self._roots()]

    # Calls around a pass

    def _enter(self, module: Any, args: Any, kwargs: Any) -> None:
        if get_ident() == self._owner:
            self._forget(module, generating=False)
            self._levels.append(Level(module, named(module, args, kwargs)))

    def _leave(self, module: Any, args: Any, kwargs: Any, output: Any) -> None:
        if get_ident() == self._owner:
            self._forget(module, generating=False)
            if output is not None:
                for member in self.members:
                    member.returned(module, output)

    def _forget(self, module: Any, generating: bool) -> None:
        """Take off the call of `module`, and what was left inside it by an exception that no hook saw."""
        for at, level in enumerate(self._levels):
            if level.module is module and level.generating == generating:
                del self._levels[at:]
                return

    def _begin(self, root: Any, args: Any, kwargs: Any) -> None:
        if get_ident() != self._owner:
            for member in self._of(root):
                member.elsewhere()
            return
        inputs = self._open[id(root)] = self._read(root, args, kwargs)
        for member in self._of(root):
            member.begin(root, inputs)

    def _end(self, root: Any, args: Any, kwargs: Any, output: Any) -> None:
        if get_ident() != self._owner:
            return
        inputs = self._open.pop(id(root), None)
        for member in self._of(root):
            if output is None:
                member.failed(root)
            elif inputs is not None:
                member.end(root, inputs)
        if output is not None:
            for member in self.members:
                member.returned(root, output)

    def _of(self, root: Any) -> list[Member]:
        return [member for member in self.members if any(root is one for one in member.roots)]

    def _read(self, root: Any, args: Any, kwargs: Any) -> Inputs:
        own = Level(root, named(root, args, kwargs))
        if not any(own.given.get(name) is not None for name in ("input_ids", "inputs_embeds")) and args:
            own.given.update({"inputs_embeds" if args[0].is_floating_point() else "input_ids": args[0]})
        virtual = max((virtual_tokens(level.module) for level in self._levels), default=0)
        generation = next((level for level in self._levels if level.generating), None)
        prompt = self._told[-1] if self._told else None if generation is None else prompt_length(generation.given)
        prompt = None if prompt is None else prompt + virtual
        if _two_texts(self._roots(), self.members):
            return read_levels([own], self._first_of(root, own, generation))
        return read_levels([*self._levels, own], prompt, virtual)

    def _first_of(self, root: Any, own: Level, generation: Level | None) -> int | None:
        """Of an encoder-decoder model the encoder only reads, and what its decoder begins with is the prompt."""
        tokens = next((own.given[n] for n in ("input_ids", "inputs_embeds") if own.given.get(n) is not None), None)
        if tokens is None or own.given.get("encoder_hidden_states") is None:
            return None if tokens is None else int(tokens.shape[1])
        if generation is None:
            return None
        given: Any = generation.given.get("decoder_input_ids")
        return 1 if given is None else int(given.shape[1]) + int(tokens.shape[1] == given.shape[1] + 1)

    # `generate`

    def _wrappers(self, module: Any) -> dict[str, Callable[..., Any]]:
        found = {name: _refused(module, name) for name in PACKED if callable(getattr(module, name, None))}
        if callable(getattr(type(module), "generate", None)):
            found["generate"] = self._watched(module, module.generate)
        return found

    def _watched(self, module: Any, generate: Any) -> Callable[..., Any]:
        """The model's own `generate`, which also tells us how long the prompt is."""

        @wraps(generate)
        def generate_(*args: Any, **kwargs: Any) -> Any:
            if get_ident() != self._owner:
                return generate(*args, **kwargs)
            levels = len(self._levels)
            self._levels.append(Level(module, _bound(generate, args, kwargs), generating=True))
            try:
                return generate(*args, **kwargs)
            finally:
                del self._levels[levels:]

        return generate_


def _bound(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        names = ["inputs"]
    names = ["inputs"] if not names or names[0] in ("args", "kwargs") else names
    return {**dict(zip(names, args, strict=False)), **kwargs}


def prompt_length(given: dict[str, Any]) -> int | None:
    """How many positions `generate` was given to go on from; None where its arguments do not say."""
    embeds = given.get("inputs_embeds")
    if embeds is not None:
        return int(embeds.shape[1])
    for name in ("input_ids", "inputs"):
        ids: Any = given.get(name)
        if getattr(ids, "ndim", 0) == 2:
            return int(ids.shape[1])
    return None


def virtual_tokens(module: Any) -> int:
    """How many positions an adapter (PEFT's prompt learning) puts before the text, in the pass or in its cache."""
    if getattr(module, "_adapters_disabled", False) or not hasattr(module, "peft_config"):
        return 0
    config = getattr(module, "active_peft_config", None)
    return int(getattr(config, "num_virtual_tokens", 0) or 0) if getattr(config, "is_prompt_learning", False) else 0


def _refused(module: Any, name: str) -> Callable[..., Any]:
    def refuse(*_: Any, **__: Any) -> Any:
        raise ProbeError(
            f"{name} packs sequences into one row and runs them in a thread of its own, so it can be neither recorded "
            "nor steered; call generate"
        )

    return refuse


def _two_texts(roots: list[Any], members: list[Member]) -> bool:
    config = next((getattr(language_model(m.model), "config", None) for m in members), None)
    return bool(getattr(config, "is_encoder_decoder", False))


@contextmanager
def _methods(module: Any, made: dict[str, Callable[..., Any]]) -> Iterator[None]:
    """Methods of this one object, until the block ends."""
    own = vars(module)
    before = {name: own[name] for name in made if name in own}
    own.update(made)
    try:
        yield
    finally:
        for name, method in made.items():
            if own.get(name) is method:  # somebody else's replacement stays
                own.pop(name)
                own.update({name: before[name]} if name in before else {})


def stage_of(model: Any) -> Stage:
    """The stage of a model, the same for every wrapper around it."""
    core = core_of(model)
    stage = _STAGES.get(core)
    if stage is None:
        stage = _STAGES[core] = Stage(core)
    return stage


@contextmanager
def on_stage(model: Any, member: Member) -> Iterator[None]:
    """The member's hooks are on the model while the block runs."""
    with lock_of(model):
        stage = stage_of(model)
        stage.change(None, member)
        try:
            yield
        finally:
            stage.change(member, None)
            drop_if_empty(model)


def drop_if_empty(model: Any) -> None:
    """Forget a stage that nobody is on: it would keep the model in memory."""
    core = core_of(model)
    if core in _STAGES and _STAGES[core].idle:
        del _STAGES[core]


@contextmanager
def aside(model: Any) -> Iterator[None]:
    """What runs meanwhile is ours: it is neither recorded nor steered."""
    with lock_of(model):
        try:
            with stage_of(model).aside():
                yield
        finally:
            drop_if_empty(model)


@contextmanager
def prompt_of(model: Any, length: int) -> Iterator[None]:
    """Tell how long the prompts are of texts that are written meanwhile without the model's own `generate`.

    Their first `length` positions, padding included, were read (prefill); what follows was written (decode).
    """
    with lock_of(model):
        try:
            with stage_of(model).prompt(length):
                yield
        finally:
            drop_if_empty(model)
