"""Results as data: rows with a target and what was measured, in sections, in one JSON file that is kept."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.timing import Timings, machine

AT_MOST, AT_LEAST = "at most", "at least"


@dataclass(frozen=True)
class Row:
    """One figure. `target` with `sense` "at most" or "at least"; None where nothing was promised.

    `low` and `high` are quartiles over `rounds` rounds; None where the figure is exact (a file's size). `cpu` is the
    same ratio in CPU time, all threads added up.
    """

    what: str
    value: float
    unit: str
    low: float | None = None
    high: float | None = None
    rounds: int | None = None
    target: float | None = None
    sense: str = AT_MOST
    note: str = ""
    cpu: float | None = None

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        return self.value <= self.target if self.sense == AT_MOST else self.value >= self.target


def ratio_row(
    what: str, timings: Timings, variant: str, base: str, target: float | None = None, note: str = "", unit: str = "x"
) -> Row:
    """The row of variant / base."""
    found, cpu = timings.ratio(variant, base), timings.cpu_ratio(variant, base)
    return Row(what, found.median, unit, found.low, found.high, found.rounds, target, note=note, cpu=cpu)


@dataclass
class Table:
    """Rows that belong together; `base` says what the ratios are of, with its own time."""

    title: str
    rows: list[Row]
    base: str = ""


@dataclass
class Section:
    """One question, one file of this package. `skipped` says why there are no tables, or not all of them."""

    name: str
    title: str
    method: str
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skipped: str = ""
    machine: dict[str, str] = field(default_factory=dict)
    measured: str = ""
    load: float | None = None
    threads: int | None = None
    seconds: float = 0.0


def stamp(section: Section, load: float, seconds: float) -> Section:
    """Where and when it was measured; `load` is the machine's load average just before."""
    import torch

    section.machine, section.load, section.seconds = machine(), round(load, 2), round(seconds, 1)
    section.measured = datetime.now(UTC).strftime("%Y-%m-%d")
    section.threads = torch.get_num_threads()
    return section


def load_average() -> float:
    """Of the last minute; 0 where the system does not tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def save(path: Path, sections: list[Section]) -> None:
    """Write the sections as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({section.name: asdict(section) for section in sections}, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def load(path: Path) -> dict[str, Section]:
    """Sections by name, as `save` wrote them; nothing if there is no such file."""
    return load_text(path.read_text(encoding="utf-8")) if path.exists() else {}


def load_text(text: str) -> dict[str, Section]:
    """Sections by name from their JSON."""
    return {name: _section(fields) for name, fields in json.loads(text).items()}


def _section(fields: dict[str, Any]) -> Section:
    tables = [Table(**{**table, "rows": [Row(**row) for row in table["rows"]]}) for table in fields["tables"]]
    return Section(**{**fields, "tables": tables})
