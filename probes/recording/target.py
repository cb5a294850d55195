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

    earlier = _unfinished(out, resume, run)
    if earlier is None:
        return TraceWriter.create(out, run, layers, kept=kept)
    _same_baseline(out, earlier, run)
    if earlier["status"] == "complete":
        return None
    return TraceWriter.resume(out, int(earlier["run_id"]))


def check_baseline(out: Path, baseline: int | None) -> None:
    """ProbeError when the run to compare with is not in `out`."""
    if baseline is None:
        return
    if not out.exists():
        raise ProbeError(f"--baseline {baseline}: {out} does not exist yet; record the baseline into it first")
    from store.trace import open_trace

    open_trace(out).run(baseline)


def _same_baseline(out: Path, earlier: dict[str, Any], run: RunInfo) -> None:
    begun = earlier["baseline_run_id"]
    begun = None if begun is None or begun != begun else int(begun)  # a missing number is NaN in a frame
    if run.baseline_run_id not in (None, begun):
        had = "no baseline" if begun is None else f"run {begun} as its baseline"
        raise ProbeError(f"{out}: run {earlier['run_id']} has {had}, not run {run.baseline_run_id}")


def _unfinished(out: Path, resume: bool, run: RunInfo) -> dict[str, Any] | None:
    """The run to go on with, the same plan's if there are several; None to begin a new one."""
    if not out.exists():
        return None
    from store.trace import open_trace

    runs = open_trace(out).runs().to_dict("records")
    same = [known for known in runs if _fingerprint(known) == run.provenance["fingerprint"]]
    open_ = [known for known in runs if known["status"] != "complete"]
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
        _same_interventions(out, open_[-1], run)
        raise ProbeError(
            f"{out}: the interrupted run {open_[-1]['run_id']} had other prompts, options or batches; "
            "repeat its command with --resume, or choose another --out"
        )
    return None


def _same_interventions(out: Path, earlier: dict[str, Any], run: RunInfo) -> None:
    from store.interventions import in_words

    stored = earlier["intervention"]
    begun, now = (in_words(json.loads(s) if isinstance(s, str) else s) for s in (stored, run.intervention))
    if begun != now:
        raise ProbeError(
            f"{out}: the interrupted run {earlier['run_id']} was recorded {begun}, and this is to be {now}; "
            "repeat its command with --resume, or choose another --out"
        )


def _fingerprint(run: dict[str, Any]) -> str | None:
    provenance = run["provenance"]
    return (json.loads(provenance) if isinstance(provenance, str) else provenance or {}).get("fingerprint")
