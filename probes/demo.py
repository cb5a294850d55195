"""The whole workbench in one go: record the sample prompts through the sample model and say what they show."""

from __future__ import annotations

from pathlib import Path

from probes.errors import ProbeError
from probes.findings import Finding, overview
from probes.recording.record import Recorded, record
from probes.sample import sample_path

DEMO_TRACE = "router-demo.duckdb"


def make_demo(out: Path) -> tuple[Recorded, list[Finding]]:
    """Record into `out` (or take the finished demo that is there already) and compute the findings."""
    from store.trace import open_trace

    sample = sample_path()
    if not (sample / "model" / "config.json").is_file():
        raise ProbeError(f"the sample model is missing from {sample}; install the package again")
    done = record(sample / "model", sample / "prompts.jsonl", out, resume=True, name="demo")
    return done, overview(open_trace(out), done.run_id)
