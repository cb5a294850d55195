"""Where a recording goes: checked before a model is loaded, because that can take minutes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probes.errors import ProbeError

if TYPE_CHECKING:
    from store.batch import LayerInfo, RunInfo
    from store.writer import TraceWriter


def check_target(out: Path) -> None:
    """ProbeError or TraceError when `out` can be neither made nor continued."""
    if out.is_dir():
        raise ProbeError(f"--out {out} is a folder; name a file, such as {out / 'trace.duckdb'}")
    folder = out.resolve().parent
    if not folder.is_dir():
        raise ProbeError(f"--out {out}: the folder {folder} does not exist")
    if not os.access(out if out.exists() else folder, os.W_OK):
        raise ProbeError(f"--out {out} is not writable")
    if out.exists():
        from store.trace import open_trace

        open_trace(out)


def open_writer(
    out: Path, run: RunInfo, layers: list[LayerInfo], kept: dict[str, Any], *, resume: bool
) -> TraceWriter | None:
    """A writer for this run: a new one, or with `resume` the interrupted one in `out`. None: it is complete already.

    A run is recognised by the fingerprint in its provenance, so that a resumed recording cannot mix two plans.
    """
    from store.writer import TraceWriter

    earlier = _unfinished(out, resume, run.provenance["fingerprint"])
    if earlier is None:
        return TraceWriter.create(out, run, layers, kept=kept)
    if earlier["status"] == "complete":
        return None
    return TraceWriter.resume(out, int(earlier["run_id"]))


def _unfinished(out: Path, resume: bool, fingerprint: str) -> dict[str, Any] | None:
    """The run to go on with, the same plan's if there are several; None to begin a new one."""
    if not out.exists():
        return None
    from store.trace import open_trace

    runs = open_trace(out).runs().to_dict("records")
    same = [run for run in runs if _fingerprint(run) == fingerprint]
    open_ = [run for run in runs if run["status"] != "complete"]
    if not resume:
        if open_:
            raise ProbeError(
                f"{out} holds an interrupted recording (run {open_[-1]['run_id']}); "
                "go on with it by --resume, or choose another --out"
            )
        return None
    if same:
        return same[-1]
    if open_:
        raise ProbeError(
            f"{out}: the interrupted run {open_[-1]['run_id']} had other prompts, options or batches; "
            "repeat its command with --resume, or choose another --out"
        )
    return None


def _fingerprint(run: dict[str, Any]) -> str | None:
    provenance = run["provenance"]
    return (json.loads(provenance) if isinstance(provenance, str) else provenance or {}).get("fingerprint")
