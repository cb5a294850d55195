"""Live models: loaded once, used by one person at a time, let go when nobody has used them for a while.

Hooks are global to a model, so two people cannot steer it at once: whoever comes second waits, and sees how many wait.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from app import options
from app.trace_file import TraceFile, identify

if TYPE_CHECKING:
    from app.pages import Here

IDLE_SECONDS = 600.0  # a model nobody used for so long gives its memory back
LOOK_SECONDS = 0.2  # how often someone who waits hears where in the queue he is


@dataclass
class _Slot:
    """One model: who waits for it, and the model itself while it is loaded, from the files as they were then."""

    path: str
    turn: threading.Lock = field(default_factory=threading.Lock)
    waiting: int = 0
    loaded: Any = None
    files: TraceFile | None = None
    used: float = 0.0


class Models:
    """The models of one server. At most `most` are in memory; the one unused for longest goes first."""

    def __init__(self, load: Callable[[str], Any], *, idle: float = IDLE_SECONDS, most: int = 1) -> None:
        self._load = load
        self._idle = idle
        self._most = most
        self._slots: dict[str, _Slot] = {}
        self._guard = threading.Lock()

    def state(self, path: str) -> tuple[bool, bool, int]:
        """Is it in memory? Does someone use it now? How many wait?"""
        slot = self._slots.get(path)
        return (False, False, 0) if slot is None else (slot.loaded is not None, slot.turn.locked(), slot.waiting)

    @contextmanager
    def use(self, path: str, waits: Callable[[int], None] = lambda others: None) -> Iterator[Any]:
        """(model, tokenizer) of `path`, for this thread alone. `waits(n)` hears how many are ahead."""
        with self._guard:
            slot = self._slots.setdefault(path, _Slot(path))
            ahead = slot.waiting + slot.turn.locked()
            slot.waiting += 1
        try:
            while not slot.turn.acquire(timeout=LOOK_SECONDS):
                waits(max(1, ahead))
        finally:
            with self._guard:
                slot.waiting -= 1
        try:
            files = _files(path)
            if slot.loaded is None or slot.files != files:
                slot.loaded = None
                self._make_room(slot)
                slot.loaded, slot.files = self._load(path), files
            yield slot.loaded
        finally:
            slot.used = time.monotonic()
            slot.turn.release()
            self._watch(slot)

    def release_idle(self) -> list[str]:
        """Let go of what nobody has used for `idle` seconds; the names of what went."""
        now, gone = time.monotonic(), []
        for slot in list(self._slots.values()):
            if slot.loaded is not None and now - slot.used >= self._idle and slot.turn.acquire(blocking=False):
                try:
                    slot.loaded = None
                    gone.append(slot.path)
                finally:
                    slot.turn.release()
        if gone:
            gc.collect()
        return gone

    def _make_room(self, wanted: _Slot) -> None:
        others = [s for s in self._slots.values() if s.loaded is not None and s is not wanted]
        for slot in sorted(others, key=lambda s: s.used)[: max(0, len(others) - self._most + 1)]:
            with slot.turn:
                slot.loaded = None
        gc.collect()

    def _watch(self, slot: _Slot) -> None:
        timer = threading.Timer(self._idle + 0.1, self.release_idle)
        timer.daemon = True
        timer.start()


def _files(path: str) -> TraceFile | None:
    """The model's folder as it is now: replaced files are another model; None for what is no folder."""
    return identify(path) if Path(path).is_dir() else None


@st.cache_resource(show_spinner=False)
def models() -> Models:
    """The live models of this server, shared by everyone who looks at it."""
    from probes.model import load_model

    return Models(load_model)


def models_of(here: Here) -> list[str]:
    """Folders of models to steer: those the dashboard was started with, and this run's own if this machine has it."""
    from probes.sample import sample_path

    named = Path(str(here.run["model"]))
    sample = sample_path() / "model"
    places = [named, *([sample] if named.parts[-2:] == sample.parts[-2:] else [])]
    own = next(([str(place)] for place in places if (place / "config.json").is_file()), [])
    return list(dict.fromkeys([*own, *options.given().models]))
