"""What does watching cost? Forward passes under the recorder's hooks against the same passes without."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.models import build, decode_steps, generation, prefill, tokens
from benchmarks.results import Row, Section, Table, ratio_row
from benchmarks.scale import Scale
from benchmarks.timing import Variant, Work, interleave, plain
from probes.capture import Want, capture, self_test

TARGETS = {"prefill": (1.03, 1.12), "decode": (1.06, 1.12)}
LOGITS = "logits + ids + weights"
ALL = "+ norms and maxima of every expert's output"
WANTS = {LOGITS: Want(norms=False), ALL: Want()}
METHOD = """\
Every round runs the plain pass and each variant once, in rotated order, with the hooks attached before the clock
starts and after one pass that is not timed. Inside the clock: the passes and `recorder.take()`, that is, all arrays
in NumPy on the host. Attaching happens once per recording and has its own row. Decoding is measured twice: as
`generate`, and as bare single-token passes, where nothing of transformers' own generation loop hides the hooks."""


def under_hooks(model: Any, want: Want, work: Work) -> Variant:
    """`work` while `want` is recorded, everything taken to the host each time."""

    @contextmanager
    def variant() -> Iterator[Work]:
        with capture(model, want) as recorder:

            def recorded() -> None:
                work()
                recorder.take()

            yield recorded

    return variant


def measure(scale: Scale) -> Section:
    """The capture section: two families, prefill and decoding."""
    section = Section("capture", "Capture against the plain forward", METHOD)
    for family in scale.families:
        model = build(family, scale.shape)
        section.tables += family_tables(family, model, scale)
    section.notes.append(f"Shape: {scale.shape}; random weights, float32.")
    return section


def family_tables(family: str, model: Any, scale: Scale, where: str = "") -> list[Table]:
    """The same three pieces of work and the attach time for any loaded model."""
    batch, length = scale.prefill
    ids, prompt = tokens(model, batch, length), tokens(model, 1, scale.prompt)
    works: list[tuple[str, str, Callable[[], Any], int]] = [
        ("prefill", f"prefill of {batch} x {length} tokens", prefill(model, ids), 2),
        (
            "decode",
            f"`generate`, {scale.prompt} + {scale.new_tokens} tokens",
            generation(model, prompt, scale.new_tokens),
            1,
        ),
        ("decode", f"{scale.new_tokens} bare single-token passes", decode_steps(model, prompt, scale.new_tokens), 1),
    ]
    tables = [_table(f"{family}{where}: {name}", phase, model, work, scale.rounds, n) for phase, name, work, n in works]
    tables[0].rows.append(_attach_row(model, scale.rounds))
    return tables


def _table(title: str, phase: str, model: Any, work: Work, rounds: int, repeats: int) -> Table:
    variants = {"plain": plain(work)} | {name: under_hooks(model, want, work) for name, want in WANTS.items()}
    timings = interleave(variants, rounds, repeats=repeats)
    rows = [ratio_row(name, timings, name, "plain", target) for name, target in zip(WANTS, TARGETS[phase], strict=True)]
    return Table(title, rows, base=f"plain: {1e3 * timings.time('plain').median:.1f} ms; {timings.disturbance}")


def _attach_row(model: Any, rounds: int) -> Row:
    def attach() -> None:
        self_test(model, again=True)
        with capture(model, Want()):
            pass

    taken = interleave({"attach": plain(attach)}, rounds).time("attach")
    return Row(
        "attaching, self-test included", 1e3 * taken.median, "ms", 1e3 * taken.low, 1e3 * taken.high, taken.rounds
    )
