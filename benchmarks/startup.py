"""How long until `probe --help` answers? CPU time of the whole process, Python's own start included."""

from __future__ import annotations

import resource
import subprocess
import sys

from benchmarks.results import Row, Section, Table
from benchmarks.scale import Scale
from benchmarks.timing import spread

COMMANDS = {
    "`probe --help`": ([sys.executable, "-m", "probes.cli.main", "--help"], 0.3),
    "`probe analyze --help`": ([sys.executable, "-m", "probes.cli.main", "analyze", "--help"], None),
    "Python alone": ([sys.executable, "-c", "pass"], None),
}
METHOD = """\
User and system time of a new process (`getrusage` of the children), with compiled bytecode in place, in interleaved
rounds."""


def measure(scale: Scale) -> Section:
    """The startup section."""
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for number in range(-1, scale.startup_rounds):
        for name, (command, _) in COMMANDS.items():
            taken = cpu_seconds(command)
            if number >= 0:
                seconds[name].append(taken)
    rows = []
    for name, (_, target) in COMMANDS.items():
        found = spread(seconds[name])
        rows.append(Row(name, found.median, "s of CPU", found.low, found.high, found.rounds, target))
    return Section("startup", "The command line", METHOD, [Table("CPU time", rows)])


def cpu_seconds(command: list[str]) -> float:
    """User and system seconds of one run of `command`; CalledProcessError if it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)
