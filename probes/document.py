"""Generated parts of documents: each between two marks, so that a command can make one anew and leave the rest."""

from __future__ import annotations

from pathlib import Path

from probes.errors import ProbeError


def marks(name: str) -> tuple[str, str]:
    """The lines around the part called `name`."""
    return f"<!-- {name}: generated -->", f"<!-- {name}: end -->"


def part(text: str, name: str) -> str:
    """What stands between the marks of `name`; ProbeError if they are not there."""
    begin, end = marks(name)
    if begin not in text or end not in text:
        raise ProbeError(f"the document has no part {name!r} (no line {begin})")
    return text.split(begin, 1)[1].split(end, 1)[0].strip("\n")


def fill(path: str | Path, name: str, body: str) -> None:
    """Put `body` between the marks of `name` in the document at `path`."""
    text = Path(path).read_text("utf-8")
    begin, end = marks(name)
    old = part(text, name)
    before, rest = text.split(begin, 1)
    after = rest.split(end, 1)[1]
    if old != body.strip("\n"):
        Path(path).write_text(f"{before}{begin}\n\n{body.strip(chr(10))}\n\n{end}{after}", "utf-8")
