"""Numbers and ranges as people write them: one parser each, for options, specs and Python arguments.

A whole number is written in the digits 0 to 9 (`²` and `1_000` are none). A range is 0-7; several are joined by commas
or pluses, as in 0-3,7 or 0-3+7. What cannot be read is a UsageError of one line that names the option.
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from probes.errors import ProbeError, UsageError

WHOLE = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)
LARGEST = 2**53  # whole numbers up to here are exact wherever they go: in JSON, in SQL, as floats
LONGEST = 100_000  # numbers in one range; no model has as many layers, experts or positions


def is_whole(text: str) -> bool:
    """
    >>> is_whole("12"), is_whole("-3"), is_whole("²"), is_whole("1.0")
    (True, True, False, False)
    """
    return WHOLE.fullmatch(text.strip()) is not None


def whole(value: Any, what: str, low: int | None = 0, high: int = LARGEST) -> int:
    """A whole number between `low` and `high`; `what` names the option in the error."""
    found = _whole(value)
    if found is None:
        raise UsageError(f"{what} takes a whole number, not {value!r}")
    if low is not None and found < low:
        raise UsageError(f"{what} must be at least {low}, got {value}")
    if found > high:
        raise UsageError(f"{what} must be at most {high}, got {value}")
    return found


def int_of(text: str) -> int:
    """As `int`, but of a whole number as `whole` reads it; ValueError for any other text."""
    if not is_whole(text):
        raise ValueError(text)
    return int(text)


def _whole(value: Any) -> int | None:
    if isinstance(value, str):
        return int(value) if is_whole(value) else None
    if isinstance(value, float) and value.is_integer() and abs(value) <= LARGEST:
        return int(value)
    if isinstance(value, (bool, complex)) or not hasattr(value, "__index__"):
        return None
    return int(value.__index__())


def number(
    value: Any, what: str, low: float | None = None, high: float | None = None, *, above: float | None = None
) -> float:
    """A finite number from `low` (or from `above`, itself left out) to `high`."""
    found = _number(value)
    if found is None:
        raise UsageError(f"{what} takes a finite number, not {value!r}")
    if above is not None and not found > above:
        limit = f" and at most {high:g}" if high is not None else ""
        raise UsageError(f"{what} must be above {above:g}{limit}, got {value}")
    if low is not None and found < low:
        raise UsageError(f"{what} must be at least {low:g}, got {value}")
    if high is not None and found > high:
        limit = f"above {above:g} and " if above is not None else ""
        raise UsageError(f"{what} must be {limit}at most {high:g}, got {value}")
    return found


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or (isinstance(value, str) and not (value.isascii() and "_" not in value)):
        return None
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def ranges(value: Any, what: str) -> list[int]:
    """Whole numbers from 0 on, and ranges of them: 3, "0-7", "0-3,7", "0-3+7", [0, "4-5"]; in the order given.

    >>> ranges("0-2,7", "layers")
    [0, 1, 2, 7]
    """
    return [n for item in _items(value) for n in _range(item, what)]


def layers(value: Any, what: str = "--layers") -> tuple[int, ...] | None:
    """Layer numbers, each once, in order; None for all.

    >>> layers("0-3,7"), layers(None)
    ((0, 1, 2, 3, 7), None)
    """
    if value is None:
        return None
    found = tuple(sorted(set(ranges(value, what))))
    if not found:
        raise UsageError(f"{what} names no layer; leave it out for all")
    return found


def place(value: Any, what: str) -> Path:
    """A file or folder, by text or Path."""
    if not isinstance(value, (str, os.PathLike)):
        raise UsageError(f"{what} takes the name of a file, not {value!r}")
    return Path(value)


def model_of(value: Any, tokenizer: Any) -> Any:
    """A model by name, or a loaded one that comes with its tokenizer; UsageError for anything else."""
    if isinstance(value, (str, Path)):
        return value
    if not callable(value) and not _holds_model(value):
        raise UsageError(f"a model is a folder, a name, or a loaded model of transformers, not {value!r}")
    if tokenizer is None:
        raise UsageError("a loaded model needs its tokenizer (tokenizer=…)")
    if not callable(tokenizer):
        raise UsageError(f"a tokenizer is one of transformers, not {tokenizer!r}")
    return value


def _holds_model(value: Any) -> bool:
    """Is there a torch module inside this object? Without torch there is none, and nothing heavy to import."""
    if "torch" not in sys.modules or not hasattr(value, "__dict__"):
        return False
    from probes.capture.within import module_of

    try:
        return module_of(value) is not None
    except ProbeError:
        return False


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, str):
        return [word.strip() for word in re.split(r"[,+]", value) if word.strip()]
    # NumPy's arrays of no dimension have __iter__ and cannot be gone through.
    return value if hasattr(value, "__iter__") and bool(getattr(value, "ndim", True)) else [value]


def _range(item: Any, what: str) -> Iterable[int]:
    first, dash, last = item.partition("-") if isinstance(item, str) else (item, "", "")
    low, high = _from_zero(first), _from_zero(last) if dash else _from_zero(first)
    if low is None or high is None:
        verb = "takes" if what.startswith("--") else "are"
        raise UsageError(f"{what} {verb} whole numbers and ranges, as in 3 or 0-7 or 0-3,5, not {item!r}")
    if high < low:
        raise UsageError(f"{what}: the range '{item}' is empty: it runs backwards; write {high}-{low}")
    if high - low >= LONGEST:
        raise UsageError(f"{what}: the range '{item}' is too long")
    return range(low, high + 1)


def _from_zero(value: Any) -> int | None:
    found = _whole(value)
    return None if found is None or found < 0 else found


def share_of_work(text: Any, what: str) -> tuple[int, int]:
    """(i, n) of "i/n", the i-th of n parts: 1 ≤ i ≤ n.

    >>> share_of_work("2/8", "--shard")
    (2, 8)
    """
    first, slash, last = str(text).partition("/")
    i, n = _from_zero(first), _from_zero(last)
    if not slash or i is None or n is None:
        raise UsageError(f"{what} {text!r} must look like 2/8")
    if not 1 <= i <= n:
        raise UsageError(f"{what} {text!r}: the first number must be between 1 and {max(n, 1)}")
    return i, n
