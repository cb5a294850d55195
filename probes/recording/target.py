"""Where a recording goes: checked before a model is loaded, because that can take minutes."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probes.errors import ProbeError
from probes.recording.identity import SAMPLE, Ours, Verdict, compare

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
        from store.database import check_writable
        from store.trace import open_trace

        open_trace(out)
        check_writable(out)


def open_writer(
    out: Path, run: RunInfo, layers: list[LayerInfo], kept: dict[str, Any], earlier: dict[str, Any] | None
) -> TraceWriter | None:
    """A writer for this run: a new one, or the interrupted one found `earlier`. None: it is complete already."""
    from store.writer import TraceWriter

    if earlier is None:
        return TraceWriter.create(out, run, layers, kept=kept)
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


@dataclass(frozen=True)
class Asked:
    """The recording that is to be made, as far as it decides which run of a trace is its own."""

    ours: Ours
    baseline: int | None

    @property
    def early(self) -> bool:
        """Is the model not loaded yet? Then only what is known to differ counts."""
        return self.ours.model is None


def refuse_interrupted(out: Path) -> None:
    """ProbeError where a recording in `out` was interrupted: a new one does not begin beside it."""
    open_ = [known for known in _runs(out) if known["status"] != "complete"]
    if open_:
        raise ProbeError(
            f"{out} holds an interrupted recording (run {open_[-1]['run_id']}); "
            "go on with it by --resume, or choose another --out"
        )


def find_run(out: Path, asked: Asked) -> tuple[dict[str, Any] | None, list[str]]:
    """(the run in `out` to resume, None to begin a new one; what there is to say about it).

    A run is recognised by its identity (see `identity`), so that a resumed recording mixes neither two plans nor two
    models. ProbeError where the interrupted run is another one.
    """
    runs = _runs(out)
    open_ = [known for known in runs if known["status"] != "complete"]
    judged = [(known, compare(provenance_of(known), asked.ours)) for known in runs]
    same = [(known, verdict) for known, verdict in judged if verdict.same]
    if same:
        known, verdict = same[-1]
        _same_baseline(out, known, asked.baseline)
        return known, [] if asked.early else _cannot_be_told(out, known, verdict)
    if open_:
        _refuse(out, open_[-1], next(verdict for known, verdict in judged if known is open_[-1]), asked)
    return None, [
        f"{out}: run {known['run_id']} is {verdict.in_words}; this is a new run"
        for known, verdict in judged[::-1]
        if verdict.same_plan
    ][:1]


def begun_on(out: Path) -> str | None:
    """The kind of device that the interrupted run in `out` had its batches planned for; None where there is none."""
    open_ = [known for known in _runs(out) if known["status"] != "complete"]
    if not open_:
        return None
    provenance = provenance_of(open_[-1])
    planned = (provenance.get("identity") or {}).get("device") or str(provenance.get("device") or "")
    return planned.partition(":")[0] or None


def _runs(out: Path) -> list[dict[str, Any]]:
    if not out.exists():
        return []
    from store.trace import open_trace

    return open_trace(out).runs().to_dict("records")


def _cannot_be_told(out: Path, run: dict[str, Any], verdict: Verdict) -> list[str]:
    """What could not be compared; an interrupted run is not gone on with where that is all of its weights."""
    if not verdict.unknown:
        return []
    about = f"{out}: run {run['run_id']}"
    if SAMPLE in verdict.unknown:
        return [f"{about} was begun by an earlier version, which looked at {SAMPLE}: only that could be compared"]
    words = f"{about}: its {' and '.join(verdict.unknown)} cannot be compared (no fingerprint)"
    if "weights" in verdict.unknown and run["status"] != "complete":
        raise ProbeError(f"{words}, so it may be of another model; choose another --out")
    return [words]


def _refuse(out: Path, run: dict[str, Any], verdict: Verdict, asked: Asked) -> None:
    if verdict.other:
        raise ProbeError(
            f"{out}: the interrupted run {run['run_id']} is {verdict.in_words}; "
            "resume it with its own model, or choose another --out"
        )
    _same_interventions(out, run, [spec.as_dict() for spec in asked.ours.under] or None)
    raise ProbeError(
        f"{out}: the interrupted run {run['run_id']} had other prompts, options or batches; "
        "repeat its command with --resume, or choose another --out"
    )


def _same_baseline(out: Path, earlier: dict[str, Any], baseline: int | None) -> None:
    begun = earlier["baseline_run_id"]
    begun = None if begun is None or begun != begun else int(begun)  # a missing number is NaN in a frame
    if baseline not in (None, begun):
        had = "no baseline" if begun is None else f"run {begun} as its baseline"
        raise ProbeError(f"{out}: run {earlier['run_id']} has {had}, not run {baseline}")


def _same_interventions(out: Path, earlier: dict[str, Any], intervention: list[dict[str, Any]] | None) -> None:
    from store.interventions import in_words

    stored = earlier["intervention"]
    begun, now = (in_words(json.loads(s) if isinstance(s, str) else s) for s in (stored, intervention))
    if begun != now:
        raise ProbeError(
            f"{out}: the interrupted run {earlier['run_id']} was recorded {begun}, and this is to be {now}; "
            "repeat its command with --resume, or choose another --out"
        )


def provenance_of(run: dict[str, Any]) -> dict[str, Any]:
    """The provenance of a row of `runs`, as a dict."""
    provenance = run["provenance"]
    return json.loads(provenance) if isinstance(provenance, str) else provenance or {}
