"""What interventions cost and bring: the same items under each of them, next to the baseline and to random controls.

found = evaluate("sample_data/model", ["sample_data/tasks/sums.jsonl"], ["ban:layer=3,expert=14"])
print(found.frame())
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probes.capture.within import device_of
from probes.errors import UsageError
from probes.evaluation.arms import BASELINE, Arm, arms_of, check_arms, controls, step_by_step
from probes.evaluation.items import Item, encode_items, items_hash, read_items
from probes.evaluation.results import Row, idle, infinite, rows_of
from probes.evaluation.score import Record, Scorer
from probes.evaluation.workfile import WorkFile
from probes.generation import Decoding
from probes.recording.plan import plan_batches

if TYPE_CHECKING:
    import pandas as pd

Progress = Callable[[int, int, str], None]  # batches done, all batches, the arm at work


@dataclass(frozen=True)
class Evaluation:
    """The result. rows: one per task, arm, measure; items: one per task, item, arm; arms: name -> what it does."""

    rows: list[Row]
    items: list[dict[str, Any]]
    arms: dict[str, list[dict[str, Any]]]
    settings: dict[str, Any]
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, without the single items."""
        rows = [asdict(row) for row in self.rows]
        return {"settings": self.settings, "arms": self.arms, "rows": rows, "notes": self.notes}

    def frame(self) -> pd.DataFrame:
        """The rows as a table."""
        import pandas as pd

        return pd.DataFrame([asdict(row) for row in self.rows])

    def row(self, task: str, arm: str, measure: str) -> Row:
        """The one row of that task, arm and measure; KeyError if there is none."""
        for row in self.rows:
            if (row.task, row.arm, row.measure) == (task, arm, measure):
                return row
        raise KeyError((task, arm, measure))


def evaluate(
    model: Any,
    tasks: Sequence[str | Path] | str | Path,
    interventions: Sequence[Any] = (),
    *,
    tokenizer: Any = None,
    control_seeds: int = 5,
    limit: int | None = None,
    batch_size: int | None = None,
    max_new_tokens: int = 64,
    stop: Sequence[str] = ("\n",),
    join: str = "auto",
    seed: int = 0,
    trace: Any = None,
    run_id: int | None = None,
    resume: str | Path | None = None,
    progress: Progress | None = None,
    load: dict[str, Any] | None = None,
) -> Evaluation:
    """Ask `model` all items of `tasks`, plainly and under each of `interventions`, and compare.

    model          a folder or hub name (with `load`: dtype, device, revision, …), or a loaded one with its `tokenizer`
    tasks          files of items: text with a target, with choices, or alone (see `probes.evaluation.items`)
    interventions  one arm each, decoding strategies too; what is written `A + B`, and a file of several, is one arm
    control_seeds  how many random controls each arm gets
    stop           texts that end an answer; join: what stands between a text and its target ("auto", "space", "none")
    trace, run_id  the recording that recipes among the interventions ask
    seed           of the controls, resamples and tests
    resume         a work file: results already in it are kept, new ones are added to it

    ProbeError or UsageError, one line, before the model has run. Batches are planned from the items alone: a resumed
    evaluation gives the numbers of an uninterrupted one.
    """
    from probes.recording.record import name_of

    decoding = Decoding(max_new_tokens, tuple(stop)).checked()
    for name, value, low in (("control-seeds", control_seeds, 0), ("batch-size", batch_size, 1), ("limit", limit, 1)):
        if value is not None and value < low:
            raise UsageError(f"--{name} must be at least {low}, got {value}")
    arms = arms_of(interventions, trace, run_id)
    prompts = read_items([tasks] if isinstance(tasks, (str, Path)) else tasks, limit)
    source = str(model) if isinstance(model, (str, Path)) else name_of(model)
    model, tokenizer = loaded(model, tokenizer, load or {})
    routers = check_arms(arms, model, tokenizer)
    compared = [Arm(BASELINE), *(one for arm in arms for one in (arm, *controls(arm, routers, control_seeds, seed)))]
    check_arms(compared, model, tokenizer)
    items = encode_items(prompts, model, tokenizer, max_new_tokens=max_new_tokens, join=join)
    scorer = Scorer(model, tokenizer, decoding, batch_size, any(map(step_by_step, compared)))
    settings = _settings(source, model, tokenizer, items, scorer, join)
    work = WorkFile(resume, settings)
    _ask(scorer, items, compared, work, progress)
    records = _by_arm(work, compared, items)
    rows = rows_of(records, compared, seed)
    return Evaluation(
        rows,
        _item_rows(items, compared, records),
        {arm.name: json.loads(arm.key) for arm in compared},
        {**settings, "control_seeds": control_seeds, "seed": seed},
        [*idle(rows), *infinite(records, compared), *_notes(scorer, rows)],
    )


def loaded(model: Any, tokenizer: Any, load: dict[str, Any]) -> tuple[Any, Any]:
    """The model and its tokenizer, loaded if a name is given."""
    if isinstance(model, (str, Path)):
        from probes.model import load_model

        return load_model(model, **load)
    if tokenizer is None:
        raise UsageError("a loaded model needs its tokenizer (tokenizer=…)")
    return model, tokenizer


def _ask(scorer: Scorer, items: list[Item], arms: list[Arm], work: WorkFile, progress: Progress | None) -> None:
    """All batches under all arms not in the work file yet; the baseline first, since KL is measured from it."""
    batches = _batches(items, scorer)
    for number, batch in enumerate(batches):
        missing = [arm for arm in arms if not all(work.has(arm.key, item.task, item.number) for item in batch)]
        base = None
        for arm in [arms[0], *(arm for arm in missing if arm is not arms[0])] if missing else []:
            if progress:
                progress(number, len(batches), arm.name)
            records, found = scorer.batch(batch, arm, number, base)
            base = found if base is None else base
            if arm in missing:
                work.add(arm.key, records)
    if progress:
        progress(len(batches), len(batches), "")


def _batches(items: list[Item], scorer: Scorer) -> list[list[Item]]:
    """Items of one task and kind together, similar lengths together."""
    groups: dict[tuple[str, str], list[Item]] = {}
    for item in items:
        groups.setdefault((item.task, item.kind), []).append(item)
    batches = []
    for (_, kind), some in groups.items():
        new = scorer.decoding.max_new_tokens if kind == "answer" else 0
        lengths = [len(i.ids) + max(new, *(len(c) for c in i.continuations), 0) for i in some]
        planned = plan_batches(lengths, scorer.batch_size, device_of(scorer.model).type)
        batches += [[some[i] for i in indices] for indices in planned]
    return batches


def _by_arm(work: WorkFile, arms: list[Arm], items: list[Item]) -> dict[str, list[Record]]:
    return {arm.name: [work.records[(arm.key, item.task, item.number)] for item in items] for arm in arms}


def _item_rows(items: list[Item], arms: list[Arm], records: dict[str, list[Record]]) -> list[dict[str, Any]]:
    return [
        {"arm": arm.name, "id": item.prompt.prompt_id, "label": item.prompt.label, "expected": item.answer, **record}
        for arm in arms
        for item, record in zip(items, records[arm.name], strict=True)
    ]


def _settings(source: str, model: Any, tokenizer: Any, items: list[Item], scorer: Scorer, join: str) -> dict[str, Any]:
    """What decides the records, so that a work file is never continued with something else."""
    from probes.recording.provenance import describe_model, software
    from probes.steering import active

    described = describe_model(model, tokenizer, source, None)
    return {
        **{name: described[name] for name in ("model", "revision", "dtype", "weights_fingerprint", "tokenizer_hash")},
        "versions": {name: software()[name] for name in ("torch", "transformers")},
        "tasks": dict(Counter(item.task for item in items)),
        "items": items_hash(items),
        "decoding": asdict(scorer.decoding),
        "batch_size": scorer.batch_size,
        "join": join,
        "under": [] if (steering := active(model)) is None else steering.as_list(),
        "reading": "token by token" if scorer.stepwise else "in one pass",
    }


def _notes(scorer: Scorer, rows: list[Row]) -> list[str]:
    tests = sum(p is not None for row in rows for p in (row.p, row.p_control))
    return [
        f"targets were read {'token by token, as in decoding' if scorer.stepwise else 'in one pass'}",
        "intervals: percentile bootstrap over items, paired, 2,000 resamples",
        f"p: sign-flip test over items, 10,000 to 100,000 flips; p_holm: Holm's correction over all {tests} tests here",
    ]
