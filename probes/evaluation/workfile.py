"""The work file of an evaluation: a line per item and arm, written as they come, so that nothing is done twice."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from probes.errors import ProbeError

Key = tuple[str, str, int]  # arm, task, item


class WorkFile:
    """Records by (arm, task, item); on disk as JSONL if there is a path, its first line saying what was asked."""

    def __init__(self, path: str | Path | None, asked: dict[str, Any]) -> None:
        self.path = None if path is None else Path(path)
        self._asked = json.loads(json.dumps(asked))
        self.records: dict[Key, dict[str, Any]] = {}
        if self.path is not None:
            self._open(self.path)

    def add(self, arm: str, records: Iterable[dict[str, Any]]) -> None:
        """Keeps records of one batch and arm."""
        lines = []
        for record in records:
            self.records[(arm, record["task"], record["item"])] = record
            lines.append(json.dumps({"arm": arm, **record}, ensure_ascii=False))
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write("".join(f"{line}\n" for line in lines))

    def has(self, arm: str, task: str, item: int) -> bool:
        return (arm, task, item) in self.records

    def _open(self, path: Path) -> None:
        if not path.exists():
            self._write(path, [{"asked": self._asked}])
            return
        lines, whole = self._read(path)
        if not lines:
            self._write(path, [{"asked": self._asked}])
            return
        self._same(path, lines[0].get("asked"))
        for line in lines[1:]:
            record = dict(line)
            arm = record.pop("arm")
            self.records[(arm, record["task"], record["item"])] = record
        if not whole:
            self._write(path, lines)

    def _read(self, path: Path) -> tuple[list[dict[str, Any]], bool]:
        """The lines, and whether the last one is whole: an interruption may have cut it."""
        text = path.read_text("utf-8", errors="replace")
        lines: list[dict[str, Any]] = []
        rows = text.split("\n")
        for number, row in enumerate(rows[:-1], 1):
            try:
                line = json.loads(row)
                if number > 1 and not {"arm", "task", "item"} <= line.keys():
                    raise ValueError
                lines.append(line)
            except (ValueError, AttributeError):
                raise ProbeError(f"{path}:{number} is no line of a work file; choose another --resume") from None
        return lines, rows[-1] == ""

    def _same(self, path: Path, before: Any) -> None:
        """Results of other questions must not be mixed in."""
        if not isinstance(before, dict):
            raise ProbeError(f"{path} is no work file of an evaluation; choose another --resume")
        other = [name for name in {**before, **self._asked} if before.get(name) != self._asked.get(name)]
        if other:
            raise ProbeError(f"{path} is of an evaluation with another {', '.join(other)}; choose another --resume")

    def _write(self, path: Path, lines: list[dict[str, Any]]) -> None:
        try:
            path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
        except OSError as error:
            raise ProbeError(f"cannot write the work file {path}: {error.strerror}") from error
