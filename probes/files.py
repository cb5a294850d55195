"""Writing result files: found out before the work whether it will be possible."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from probes.errors import ProbeError


def check_writable(path: str | Path | None) -> None:
    """ProbeError if a file could not be written there; before hours of work, not after."""
    if path is None:
        return
    folder = Path(path).resolve().parent
    if Path(path).is_dir():
        raise ProbeError(f"{path} is a folder, not a file to write")
    if not folder.is_dir():
        raise ProbeError(f"cannot write {path}: there is no folder {folder}")


def write_json(path: str | Path, value: Any) -> None:
    """`value` as JSON, UTF-8; ProbeError where that cannot be written."""
    try:
        Path(path).write_text(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise ProbeError(f"cannot write {path}: {error.strerror}") from error
