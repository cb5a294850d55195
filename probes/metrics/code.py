"""Which code a number was computed with: a hash that changes with it."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from types import CodeType
from typing import Any

from probes.metrics.registry import Metric

HERE = Path(__file__).parent
# What stands between a trace and a metric's table, outside of this package.
AROUND = ("analysis.py", "sources.py", "scores.py", "scatter.py", "routing.py", "weights.py")


def code_fingerprint(metric: Metric) -> str:
    """A hash of the code a metric's table comes from: its own functions, and everything the metrics share."""
    digest = hashlib.sha256(_shared().encode())
    for name, value in sorted(vars(metric).items()):
        digest.update(f"{name}={_spelled(value)}\n".encode())
    return digest.hexdigest()[:32]


@cache
def _shared() -> str:
    files = [*sorted(HERE.rglob("*.py")), *(HERE.parent / name for name in AROUND), *_storage()]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def _storage() -> list[Path]:
    """How the stored sums are made and read."""
    folder = HERE.parents[1] / "store"
    return sorted(
        folder / name for name in ("aggregate.py", "chunks.py", "totals.py", "moments.py", "router_inputs.py")
    )


def _spelled(value: Any) -> str:
    """A value as text that is the same in every process; of a function its code."""
    code = getattr(value, "__code__", None)
    if isinstance(code, CodeType):
        return f"{_code(code)} {[_spelled(cell.cell_contents) for cell in value.__closure__ or ()]}"
    if isinstance(value, tuple | list):
        return str([_spelled(one) for one in value])
    return type(value).__name__ if " at 0x" in repr(value) else repr(value)


def _code(code: CodeType) -> str:
    inner = [_code(one) if isinstance(one, CodeType) else repr(one) for one in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {inner}"
