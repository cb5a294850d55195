"""argparse, but a wrong word becomes one line with the nearest right one, and exit code 2."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from probes.errors import UsageError, did_you_mean


class Parser(argparse.ArgumentParser):
    """One command's words. What it does not know is compared with its own options, not with those of `probe`."""

    words: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self.words = list(args or ())
        found, rest = super().parse_known_args(args, namespace)
        if rest:
            option = next((word.split("=")[0] for word in rest if word.startswith("--")), "")
            hint = did_you_mean(option, self._option_string_actions) if option else ""
            self._refuse(f"unrecognized arguments: {' '.join(rest)}{hint}")
        return found, rest

    def error(self, message: str) -> NoReturn:
        known = self._option_string_actions
        for word in self.words:
            option = word.split("=")[0]
            if option == "--":
                break
            if option.startswith("--") and not any(name.startswith(option) for name in known):
                # Said first: argparse would complain that the right option is missing.
                message = f"unknown option {option!r}{did_you_mean(option, known)}"
                break
        self._refuse(message)

    def _refuse(self, message: str) -> NoReturn:
        # A line break in a word must not make two lines of it.
        raise UsageError(f"{' '.join(message.split())} (see '{self.prog} --help')")
