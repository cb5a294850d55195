"""What does changing the routing cost? Forward passes under interventions against the same passes without."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.models import build, decode_steps, prefill, tokens
from benchmarks.results import Section, Table, ratio_row
from benchmarks.scale import Scale
from benchmarks.timing import Variant, Work, interleave, plain
from probes.steering import steer

TARGETS = {"prefill": 1.05, "decode": 1.10}
SPECS = {
    "no intervention: `steer(model, [])`": [],
    "one that changes nothing: `boost:expert=3,factor=1`": ["boost:expert=3,factor=1"],
    "after selection: `boost:expert=3,factor=4`": ["boost:expert=3,factor=4"],
    "the choice: `ban:expert=3`": ["ban:expert=3"],
    "the logits: `bias:expert=3,delta=2`": ["bias:expert=3,delta=2"],
    "three at once: bias, ban, boost": ["bias:expert=1,delta=2", "ban:expert=3", "boost:expert=1,factor=2"],
}
METHOD = """\
All layers are edited, every pass. Every round runs the plain pass and each variant once, in rotated order; the
interventions are in place before the clock starts, as they are for a whole generation or evaluation."""


def measure(scale: Scale) -> Section:
    """The steering section: two families, prefill and decoding."""
    section = Section("steering", "Steering against the plain forward", METHOD)
    batch, length = scale.prefill
    for family in scale.families:
        model = build(family, scale.shape)
        works = {
            "prefill": (f"prefill of {batch} x {length} tokens", prefill(model, tokens(model, batch, length)), 2),
            "decode": (
                f"{scale.new_tokens} bare single-token passes",
                decode_steps(model, tokens(model, 1, scale.prompt), scale.new_tokens),
                1,
            ),
        }
        section.tables += [
            _table(f"{family}: {name}", phase, model, work, scale.rounds, n) for phase, (name, work, n) in works.items()
        ]
    section.notes.append(f"Shape: {scale.shape}; random weights, float32.")
    return section


def steered(model: Any, specs: list[str], work: Work) -> Variant:
    """`work` under `specs`."""

    @contextmanager
    def variant() -> Iterator[Work]:
        with steer(model, specs):
            yield work

    return variant


def _table(title: str, phase: str, model: Any, work: Work, rounds: int, repeats: int) -> Table:
    variants = {"plain": plain(work)} | {name: steered(model, specs, work) for name, specs in SPECS.items()}
    timings = interleave(variants, rounds, repeats=repeats)
    rows = [ratio_row(name, timings, name, "plain", TARGETS[phase] if specs else None) for name, specs in SPECS.items()]
    return Table(title, rows, base=f"plain: {1e3 * timings.time('plain').median:.1f} ms; {timings.disturbance}")
