"""Is this machine fit for recording? What is installed, what fits, what is missing and how to get it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass

OK, WARN, BAD = "ok", "warning", "problem"
MIN_TRANSFORMERS, BELOW_TRANSFORMERS = (5, 14), (6,)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at: its state, what was found, and what to do about it (empty when all is well)."""

    name: str
    state: str
    found: str
    advice: str = ""


def examine() -> list[Check]:
    """Every check, in the order in which a user would mend them."""
    checks: list[Callable[[], Check]] = [
        _python,
        _torch,
        _transformers,
        _duckdb,
        _accelerator,
        _memory,
        _disk,
        _sample_model,
        _browser,
    ]
    return [check() for check in checks]


def _python() -> Check:
    return Check("Python", OK, platform.python_version())


def _version(name: str) -> tuple[int, ...] | None:
    try:
        text = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    return tuple(int(part) for part in text.split("+")[0].split(".") if part.isdigit())


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _torch() -> Check:
    version = _version("torch")
    if version is None:
        return Check("torch", BAD, "not installed", "pip install torch")
    import torch

    return Check("torch", OK, f"{torch.__version__}, {torch.get_num_threads()} threads")


def _transformers() -> Check:
    version = _version("transformers")
    if version is None:
        return Check("transformers", BAD, "not installed", "pip install 'transformers>=5.14,<6'")
    if not MIN_TRANSFORMERS <= version < BELOW_TRANSFORMERS:
        return Check("transformers", BAD, _dotted(version), "pip install 'transformers>=5.14,<6'")
    return Check("transformers", OK, _dotted(version))


def _duckdb() -> Check:
    import duckdb

    row = duckdb.connect().execute("SELECT 6 * 7").fetchone()
    works = row is not None and row[0] == 42
    return Check(
        "DuckDB", OK if works else BAD, duckdb.__version__, "" if works else "pip install --force-reinstall duckdb"
    )


def _accelerator() -> Check:
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return Check("accelerator", OK, f"{torch.cuda.get_device_name()}, {free >> 30} of {total >> 30} GiB free")
    if torch.backends.mps.is_available():
        return Check("accelerator", OK, "Apple MPS")
    return Check("accelerator", OK, "none: models run on the processor")


def _memory() -> Check:
    if not hasattr(os, "sysconf") or "SC_AVPHYS_PAGES" not in os.sysconf_names:
        return Check("memory", OK, "unknown on this system")
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return Check("memory", OK if free > 2 else WARN, f"{free:.1f} GiB free", "" if free > 2 else "close other programs")


def _disk() -> Check:
    free = shutil.disk_usage(".").free / 2**30
    advice = "" if free > 1 else "record to another disk with --out"
    return Check("disk here", OK if free > 1 else WARN, f"{free:.1f} GiB free", advice)


def _sample_model() -> Check:
    from probes.sample import sample_path

    model = sample_path() / "model" / "model.safetensors"
    if not model.is_file():
        return Check("sample model", BAD, f"{model} is missing", "install the package again")
    return Check("sample model", OK, f"{model.stat().st_size / 2**20:.1f} MiB")


def _browser() -> Check:
    found = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )
    return Check("browser for tests", OK, found or "none found: the browser tests are left out")
