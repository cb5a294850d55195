"""What goes wrong on the user's side: one clear line each, and never a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ProbeError(Exception):
    """Could not be done; the message is one line that names what is wrong and what to do. Exit code 1."""


class UsageError(ProbeError):
    """Asked for in a wrong way (an unknown name, an option out of range). Exit code 2."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the nearest of `known`, or an empty string when nothing is near."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is not among `known`, with the nearest right one."""
    names = sorted(known)
    hint = did_you_mean(name, names) or f"; known: {', '.join(names[:12])}{', …' if len(names) > 12 else ''}"
    return UsageError(f"unknown {kind} {name!r}{hint}")
