"""What the dashboard was started with: the words after `--` of Streamlit's command line, made by `app.server`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """traces: paths to look at. record_to: folder for new recordings, None for a temporary one. models: folders of
    models to steer, beside those the traces were recorded from. shared: whether others than the person who started it
    can reach it."""

    traces: tuple[str, ...]
    record_to: str | None
    shared: bool
    models: tuple[str, ...] = ()

    @property
    def may_steer(self) -> bool:
        """As with recording: a model takes this machine's memory and time."""
        return not self.shared or bool(self.models)

    @property
    def may_record(self) -> bool:
        """Others may start work on this machine only where that was asked for."""
        return not self.shared or self.record_to is not None


def given(words: Sequence[str] | None = None) -> Options:
    """The options in `words` (default: of this process)."""
    parser = argparse.ArgumentParser()
    parser.add_argument("traces", nargs="*")
    parser.add_argument("--record-to")
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--shared", action="store_true")
    found = parser.parse_args(sys.argv[1:] if words is None else list(words))
    return Options(tuple(found.traces), found.record_to, found.shared, tuple(found.model))


def as_words(options: Options) -> list[str]:
    """The words that `given` reads these options from."""
    place = [] if options.record_to is None else ["--record-to", options.record_to]
    place += [word for model in options.models for word in ("--model", model)]
    return [*place, *(["--shared"] if options.shared else []), *options.traces]
