"""Where the sample model, its prompts and its tasks lie: inside an installed package, beside it in a checkout."""

from __future__ import annotations

from pathlib import Path


def sample_path() -> Path:
    """The folder with `model/`, `prompts.jsonl` and `tasks/`; relative where it lies below the working directory."""
    here = Path(__file__).resolve().parent
    installed = here / "sample_data"
    found = installed if installed.is_dir() else here.parent / "sample_data"
    return found.relative_to(Path.cwd()) if found.is_relative_to(Path.cwd()) else found
