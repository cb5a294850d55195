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
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
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
class Sample:
    """One variant in one round: seconds by the clock, CPU seconds of this process, cores that others used meanwhile."""

    clock: float
    cpu: float
    others: float


@dataclass(frozen=True)
class Timings:
    """Samples of every variant, one per round; the same index is the same round."""

    samples: dict[str, list[Sample]]

    def ratio(self, variant: str, base: str) -> Spread:
        """Spread of variant / base by the clock, round by round."""
        return spread([v.clock / b.clock for v, b in self._pairs(variant, base)])

    def cpu_ratio(self, variant: str, base: str) -> float:
        """Median of variant / base in CPU time: all threads added up, and hardly moved by what else runs."""
        return statistics.median(v.cpu / b.cpu for v, b in self._pairs(variant, base))

    def time(self, variant: str) -> Spread:
        """Spread of the seconds by the clock."""
        return spread([sample.clock for sample in self.samples[variant]])

    def _pairs(self, variant: str, base: str) -> list[tuple[Sample, Sample]]:
        return list(zip(self.samples[variant], self.samples[base], strict=True))

    @property
    def disturbance(self) -> str:
        """How busy the machine was with other things, in words."""
        rounds = zip(*self.samples.values(), strict=True)
        return f"other processes used {statistics.median(_most(r) for r in rounds):.2f} cores"


def _most(samples: Iterable[Sample]) -> float:
    """The most that others used during one of the samples of a round."""
    return max(sample.others for sample in samples)


def plain(work: Work) -> Variant:
    """A variant that needs nothing set up."""
    return lambda: nullcontext(work)


def interleave(variants: Mapping[str, Variant], rounds: int, *, repeats: int = 1, warm: int = 1) -> Timings:
    """Run every variant once per round. `repeats` calls are timed together, after `warm` calls that are not.

    A first round of all variants is thrown away: it pays for compilation, caches and first allocations. Disturbed
    rounds are repeated (see above).
    """
    names = list(variants)
    tried: list[dict[str, Sample]] = []
    with _settled():
        _round(variants, names, repeats, warm)
        while len(tried) < rounds * PATIENCE and sum(_most(r.values()) <= QUIET for r in tried) < rounds:
            at = len(tried) % len(names)
            tried.append(_round(variants, names[at:] + names[:at], repeats, warm))
    kept = sorted(tried, key=lambda r: max(_most(r.values()), QUIET))[:rounds]
    return Timings({name: [r[name] for r in kept] for name in names})


def _round(variants: Mapping[str, Variant], names: list[str], repeats: int, warm: int) -> dict[str, Sample]:
    return {name: _sample(variants[name], repeats, warm) for name in names}


def _sample(variant: Variant, repeats: int, warm: int) -> Sample:
    with variant() as work:
        for _ in range(warm):
            work()
        gc.collect()
        watch = Watch()
        clock, cpu = time.perf_counter(), time.process_time()
        for _ in range(repeats):
            work()
        cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
        return Sample(clock / repeats, cpu / repeats, watch.others())


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
