"""The work file of an evaluation: a line per item and arm, written as they come, so that nothing is done twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from probes.errors import ProbeError

Key = tuple[str, str, int]  # arm, task, item


NEW = ("checkpoint", "settings_fingerprint")  # what the first version did not write
NAMES = {
    "weights_fingerprint": "model (other weights)",
    "checkpoint": "model (other weights)",
    "tokenizer_hash": "model (other tokenizer)",
    "settings_fingerprint": "model (other settings)",
}


def check_checkpoint(path: str | Path | None, checkpoint: str | None) -> None:
    """ProbeError where the work file at `path` is of a model in other files, before one is loaded."""
    if path is None or checkpoint is None or not Path(path).is_file():
        return
    with Path(path).open(encoding="utf-8", errors="replace") as stream:
        try:
            before = json.loads(stream.readline())["asked"]["checkpoint"]
        except (ValueError, KeyError, TypeError):
            return  # it says none, or it is no work file: told when it is opened
    if before is not None and before != checkpoint:
        raise _another(Path(path), ["checkpoint"])


def _same_question(path: Path, before: dict[str, Any], mine: dict[str, Any]) -> None:
    """ProbeError where the answers in the file are to another question, or of another model."""
    weights, files = (
        all(asked.get(name) for asked in (before, mine)) for name in ("weights_fingerprint", "checkpoint")
    )
    if not (weights or files):
        raise ProbeError(
            f"{path}: its model cannot be compared (no fingerprint of the weights); choose another --resume"
        )
    # Names and files that differ may hold the same weights; files decide where the weights themselves are not known.
    aside = {"model", "revision", *(("checkpoint",) if weights or not files else ())}
    other = [name for name in {**before, **mine} if name not in aside and before.get(name) != mine.get(name)]
    if other:
        raise _another(path, other)


def _another(path: Path, names: list[str]) -> ProbeError:
    spelled = dict.fromkeys(NAMES.get(name, name) for name in names)
    return ProbeError(f"{path} is of an evaluation with another {', '.join(spelled)}; choose another --resume")


class WorkFile:
    """Records by (arm, task, item); on disk as JSONL if there is a path, its first line saying what was asked.

    earlier: what the first version would have said in place of ours, which hashed less of the model.
    """

    def __init__(
        self, path: str | Path | None, asked: dict[str, Any], earlier: Callable[[], dict[str, Any]] = dict
    ) -> None:
        self.path = None if path is None else Path(path)
        self._asked, self._earlier = json.loads(json.dumps(asked)), earlier
        self.notes: list[str] = []
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
        mine = self._asked
        if "checkpoint" not in before:
            mine = {name: value for name, value in mine.items() if name not in NEW} | self._earlier()
            self.notes = [f"{path} was begun by an earlier version: only a sample of the weights could be compared"]
        _same_question(path, before, mine)

    def _write(self, path: Path, lines: list[dict[str, Any]]) -> None:
        try:
            path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
        except OSError as error:
            raise ProbeError(f"cannot write the work file {path}: {error.strerror}") from error
