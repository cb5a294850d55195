"""Judging a resumed recording by the model's files, before the model is loaded."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probes.errors import ProbeError
from probes.recording.fingerprints import tokenizer_fingerprint
from probes.recording.identity import Identity, Ours
from probes.recording.target import Asked, begun_on, find_run, provenance_of

if TYPE_CHECKING:
    from probes.interventions.spec import Spec
    from probes.prompts import Prompts
    from probes.recording.options import RecordOptions
    from probes.recording.record import Recorded


def complete_already(
    model: str,
    checkpoint: tuple[str, bool],
    prompts: Prompts,
    out: Path,
    options: RecordOptions,
    specs: tuple[Spec, ...],
    baseline: int | None,
) -> Recorded | None:
    """The run of this recording if it is in `out` and complete; None where the model has to be loaded to go on.

    checkpoint: of the model's folder, and whether every byte of it was read. ProbeError where the interrupted run is
    of another model or another plan.
    """
    from probes.recording.record import COMPLETE, prepare, recorded

    started = time.perf_counter()
    named = _named(model, options)
    if named is None:
        return None
    config, tokenizer = named
    job = prepare(config, tokenizer, prompts, options, specs, begun_on(out) or "cpu")
    identity = Identity(job.fingerprint, tokenizer_fingerprint(tokenizer), checkpoint=checkpoint[0], device=job.device)
    ours = Ours(identity, job.prompts, options, specs, None, tokenizer)
    run, said = find_run(out, Asked(ours, baseline))
    if run is None or run["status"] != "complete" or not _surely(run, checkpoint, options):
        return None
    return recorded(out, run["run_id"], started, job.left_out, [*job.notes, *said, COMPLETE])


def _named(model: str, options: RecordOptions) -> tuple[Any, Any] | None:
    """(configuration, tokenizer) from their files alone; None where it takes the model."""
    from probes.model import load_config

    try:
        config, tokenizer = load_config(model, revision=options.revision, trust_remote_code=options.trust_remote_code)
    except ProbeError:
        return None  # loading the model says it in its own words
    return config, tokenizer


def _surely(run: dict[str, Any], checkpoint: tuple[str, bool], options: RecordOptions) -> bool:
    """Are the weights the same to the last bit, as far as files can tell?"""
    provenance = provenance_of(run)
    stored, dtype = (provenance.get("identity") or {}), (provenance.get("options") or {}).get("dtype")
    return checkpoint[1] and stored.get("checkpoint") == checkpoint[0] and dtype == options.dtype
