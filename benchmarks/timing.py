"""Timing by interleaved rounds: what is compared runs side by side, so that a busy machine disturbs all alike.

Each round runs every variant once, in an order that rotates from round to round. What is reported is the median of the
per-round ratios with its quartiles, never a ratio of two times taken minutes apart. A round during which other
processes took more than a little of the machine is run again, up to `PATIENCE` times as many rounds as asked for;
then the least disturbed ones count, and the report says how disturbed they were.
"""

from __future__ import annotations

import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

QUIET = 0.15  # cores that others may use during a round; above it two threads wait for each other at every barrier
PATIENCE = 3
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
    """Seconds per variant, one entry per round; the same index is the same round. `others`: cores others used."""

    seconds: dict[str, list[float]]
    others: list[float] = field(default_factory=list)

    def ratio(self, variant: str, base: str) -> Spread:
        """Spread of variant / base, round by round."""
        return spread([v / b for v, b in zip(self.seconds[variant], self.seconds[base], strict=True)])

    def time(self, variant: str) -> Spread:
        """Spread of the seconds themselves."""
        return spread(self.seconds[variant])

    @property
    def disturbance(self) -> str:
        """How busy the machine was with other things, in words."""
        return f"other processes used {statistics.median(self.others):.2f} cores" if self.others else ""


def plain(work: Work) -> Variant:
    """A variant that needs nothing set up."""
    return lambda: nullcontext(work)


def interleave(variants: Mapping[str, Variant], rounds: int, *, repeats: int = 1, warm: int = 1) -> Timings:
    """Run every variant once per round. `repeats` calls are timed together, after `warm` calls that are not.

    A first round of all variants is thrown away: it pays for compilation, caches and first allocations. Disturbed
    rounds are repeated (see above).
    """
    names = list(variants)
    tried: list[tuple[float, dict[str, float]]] = []
    with _settled():
        _round(variants, names, repeats, warm)
        while len(tried) < rounds * PATIENCE and sum(others <= QUIET for others, _ in tried) < rounds:
            at = len(tried) % len(names)
            tried.append(_round(variants, names[at:] + names[:at], repeats, warm))
    kept = sorted(tried, key=lambda item: max(item[0], QUIET))[:rounds]
    return Timings({name: [taken[name] for _, taken in kept] for name in names}, [others for others, _ in kept])


def _round(
    variants: Mapping[str, Variant], names: list[str], repeats: int, warm: int
) -> tuple[float, dict[str, float]]:
    """Every variant once: the most cores that others used during one of them, and the seconds of each."""
    taken: dict[str, float] = {}
    others = 0.0
    for name in names:
        taken[name], busy = _sample(variants[name], repeats, warm)
        others = max(others, busy)
    return others, taken


def _sample(variant: Variant, repeats: int, warm: int) -> tuple[float, float]:
    with variant() as work:
        for _ in range(warm):
            work()
        gc.collect()
        watch = Watch()
        start = time.perf_counter()
        for _ in range(repeats):
            work()
        seconds = time.perf_counter() - start
        return seconds / repeats, watch.others()


class Watch:
    """How many cores processes other than this one (and its children) used since it was made; 0 where unknown."""

    def __init__(self) -> None:
        self._start = self._now()

    def others(self) -> float:
        """Cores, on average. The kernel counts in hundredths of a second: over 0.1 s this is known to a tenth."""
        clock, everything, own = (now - before for now, before in zip(self._now(), self._start, strict=True))
        return max(0.0, (everything - own) / clock) if clock > 0 else 0.0

    def _now(self) -> tuple[float, float, float]:
        own = sum(os.times()[:4])
        return time.perf_counter(), _busy_seconds() or own, own


def _busy_seconds() -> float:
    """Seconds that all cores together were not idle since the machine started."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _idle, _wait, irq, soft, steal = (
        int(x) for x in stat.read_text().split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _settled() -> Iterator[None]:
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
