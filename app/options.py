"""What the dashboard was started with: the words after `--` of Streamlit's command line, made by `app.server`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """traces: paths to look at. record_to: folder for new recordings, None for a temporary one. shared: whether others
    than the person who started it can reach it."""

    traces: tuple[str, ...]
    record_to: str | None
    shared: bool

    @property
    def may_record(self) -> bool:
        """Others may start work on this machine only where that was asked for."""
        return not self.shared or self.record_to is not None


def given(words: Sequence[str] | None = None) -> Options:
    """The options in `words` (default: of this process)."""
    parser = argparse.ArgumentParser()
    parser.add_argument("traces", nargs="*")
    parser.add_argument("--record-to")
    parser.add_argument("--shared", action="store_true")
    found = parser.parse_args(sys.argv[1:] if words is None else list(words))
    return Options(tuple(found.traces), found.record_to, found.shared)


def as_words(options: Options) -> list[str]:
    """The words that `given` reads these options from."""
    place = [] if options.record_to is None else ["--record-to", options.record_to]
    return [*place, *(["--shared"] if options.shared else []), *options.traces]
