"""Timing by interleaved rounds: what is compared runs side by side, so that a busy machine disturbs all alike.

Each round runs every variant once, in an order that rotates from round to round. What is reported is the median of the
per-round ratios with its quartiles, never a ratio of two times taken minutes apart.
"""

from __future__ import annotations

import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Work = Callable[[], Any]
Variant = Callable[[], AbstractContextManager[Work]]


@dataclass(frozen=True)
class Spread:
    """A median with its quartiles over `rounds` rounds."""

    median: float
    low: float
    high: float
    rounds: int


def spread(values: list[float]) -> Spread:
    """Median and quartiles (inclusive method: with few rounds they stay inside what was seen)."""
    if len(values) < 2:
        return Spread(values[0], values[0], values[0], len(values))
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high, len(values))


@dataclass(frozen=True)
class Timings:
    """Seconds per variant, one entry per round; the same index is the same round."""

    seconds: dict[str, list[float]]

    def ratio(self, variant: str, base: str) -> Spread:
        """Spread of variant / base, round by round."""
        return spread([v / b for v, b in zip(self.seconds[variant], self.seconds[base], strict=True)])

    def time(self, variant: str) -> Spread:
        """Spread of the seconds themselves."""
        return spread(self.seconds[variant])


def plain(work: Work) -> Variant:
    """A variant that needs nothing set up."""
    return lambda: nullcontext(work)


def interleave(variants: Mapping[str, Variant], rounds: int, *, repeats: int = 1, warm: int = 1) -> Timings:
    """Run every variant once per round. `repeats` calls are timed together, after `warm` calls that are not.

    A first round of all variants is thrown away: it pays for compilation, caches and first allocations.
    """
    names = list(variants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with _settled():
        for number in range(-1, rounds):
            at = max(number, 0) % len(names)
            for name in names[at:] + names[:at]:
                taken = _sample(variants[name], repeats, warm)
                if number >= 0:
                    seconds[name].append(taken)
    return Timings(seconds)


def _sample(variant: Variant, repeats: int, warm: int) -> float:
    with variant() as work:
        for _ in range(warm):
            work()
        gc.collect()
        start = time.perf_counter()
        for _ in range(repeats):
            work()
        return (time.perf_counter() - start) / repeats


@contextmanager
def _settled():  # type: ignore[no-untyped-def]
    # What exists already (torch, transformers, the model) is left out of garbage collections, which otherwise hit
    # whichever variant happens to allocate the deciding object, a tenth of a second at a time.
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def machine() -> dict[str, str]:
    """The machine and the software a figure was taken on."""
    found = {
        "CPU": _cpu(),
        "cores": str(os.cpu_count()),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": f"{_system()}, Linux {platform.release()}" if os.name == "posix" else platform.platform(),
        "Python": platform.python_version(),
    }
    return found | _versions() | _gpu()


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    if "model name" not in fields:
        return platform.processor() or platform.machine()
    wide = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in fields.get("flags", "").split()]
    return f"{fields['model name']} (family {fields.get('cpu family')}, model {fields.get('model')}; {', '.join(wide)})"


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        return platform.system()


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "transformers", "duckdb", "pyarrow", "numpy", "numba")}


def _gpu() -> dict[str, str]:
    import torch

    if not torch.cuda.is_available():
        return {}
    card = torch.cuda.get_device_properties(0)
    return {"GPU": f"{card.name}, {card.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"}
