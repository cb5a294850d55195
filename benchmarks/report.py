"""docs/benchmarks.md from the results: what was promised, what was measured, where, and what is missed."""

from __future__ import annotations

from benchmarks.results import AT_MOST, Row, Section, Table

HEAD = """\
# Benchmarks

Made by `make bench` (`python -m benchmarks.run`); do not edit. The figures as data: `benchmarks/results.json`.

Figures are medians over rounds, with quartiles beside them. What is compared runs in the same rounds: each round
runs every variant once, in rotated order, and a ratio is taken within its round. A round during which other
processes used more than 0.15 of a core is run again, up to three times as many rounds as are counted. Nothing in
the tests asserts a time.
"""


def render(sections: list[Section]) -> str:
    """The whole page."""
    parts = [HEAD, _machines(sections), _summary(sections)]
    parts += [_section(section) for section in sections]
    return "\n".join(part.rstrip() + "\n" for part in parts)


def _machines(sections: list[Section]) -> str:
    """Each machine once; sections measured elsewhere say so in their own line."""
    machines: list[dict[str, str]] = []
    for section in sections:
        if section.machine and section.machine not in machines:
            machines.append(section.machine)
    blocks = []
    for number, machine in enumerate(machines):
        name = "## Machine" if len(machines) == 1 else f"## Machine {number + 1}"
        of = [section.title for section in sections if section.machine == machine and section.tables]
        used = [] if len(machines) == 1 else [f"\nUsed for: {', '.join(of)}."]
        blocks.append("\n".join([name, "", *(f"- {key}: {value}" for key, value in machine.items()), *used, ""]))
    return "\n".join(blocks)


def _summary(sections: list[Section]) -> str:
    """All targets in one table."""
    lines = ["## Targets", "", "| what | target | measured | met |", "| --- | --- | --- | --- |"]
    for section in sections:
        for table in section.tables:
            lines += [
                f"| {table.title}: {row.what} | {_target(row)} | {_value(row)} | {_met(row)} |"
                for row in table.rows
                if row.target is not None
            ]
        if section.skipped:
            lines.append(f"| {section.title} | | {section.skipped} | |")
    return "\n".join(lines)


def _section(section: Section) -> str:
    lines = [f"## {section.title}", "", section.method, ""]
    lines += [f"{note}" for note in section.notes]
    if section.skipped:
        lines += ["", f"**{section.skipped}**"]
    for table in section.tables:
        lines += ["", *_table(table)]
    if section.tables:
        threads = f", torch with {section.threads} threads" if section.threads else ""
        lines += [
            "",
            f"Measured {section.measured}{threads}; load average before: {section.load}; {section.seconds:.0f} s.",
        ]
    return "\n".join(lines)


def _table(table: Table) -> list[str]:
    head = f"### {table.title}"
    lines = [head, "", *([f"{table.base[0].upper()}{table.base[1:]}.", ""] if table.base else [])]
    lines += [
        "| what | measured | quartiles | CPU time | rounds | target | met | |",
        "|" + " --- |" * 8,
    ]
    for row in table.rows:
        quartiles = "" if row.low is None or row.high is None else f"{_number(row.low)}-{_number(row.high)}"
        cpu = "" if row.cpu is None else f"{_number(row.cpu)} x"
        cells = [row.what, _value(row), quartiles, cpu, str(row.rounds or ""), _target(row), _met(row), row.note]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _value(row: Row) -> str:
    return f"{_number(row.value)} {row.unit}"


def _target(row: Row) -> str:
    if row.target is None:
        return ""
    return f"{'≤' if row.sense == AT_MOST else '≥'} {row.target:g}"


def _met(row: Row) -> str:
    return {None: "", True: "yes", False: "**no**"}[row.met]


def _number(value: float) -> str:
    """Three digits after the point for ratios near one, fewer for large numbers."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"
