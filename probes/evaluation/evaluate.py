"""What interventions cost and bring: the same items under each of them, next to the baseline and to controls.

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

import numpy as np

from probes import parsing
from probes.capture.within import device_of
from probes.errors import UsageError, unknown
from probes.evaluation.arms import BASELINE, Arm, arms_of, check_arms, step_by_step
from probes.evaluation.controlled import Ask, Matched, controls_of
from probes.evaluation.drawing import TOLERANCE
from probes.evaluation.items import JOINS, Item, encode_items, items_hash, read_items
from probes.evaluation.loads import Loads, Text, Where, count, key_of, where_of
from probes.evaluation.results import Row, idle, infinite, rows_of
from probes.evaluation.score import Record, Scorer
from probes.evaluation.workfile import WorkFile, check_checkpoint
from probes.families.initialised import note_of
from probes.files import check_writable
from probes.generation import Decoding
from probes.generation_config import left_aside, option_texts, used, words_of
from probes.interventions.values import check_naming
from probes.model import check_load
from probes.parsing import whole
from probes.prompts import key_notes
from probes.recording.fingerprints import stored_checkpoint
from probes.recording.plan import plan_batches

if TYPE_CHECKING:
    import pandas as pd

Progress = Callable[[int, int, str], None]  # batches done, all batches, the arm at work


@dataclass(frozen=True)
class Evaluation:
    """The result. rows: one per task, arm, measure; items: one per task, item, arm; arms: name -> what it does.

    controls: what the controls of each arm and task are, what they carry, or why there are none.
    """

    rows: list[Row]
    items: list[dict[str, Any]]
    arms: dict[str, list[dict[str, Any]]]
    settings: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    controls: list[Matched] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, without the single items."""
        rows = [asdict(row) for row in self.rows]
        controls = [one.as_dict() for one in self.controls]
        return {
            "settings": self.settings,
            "arms": self.arms,
            "controls": controls,
            "rows": rows,
            "notes": self.notes,
        }

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
    control: str = "load",
    control_tolerance: float = TOLERANCE,
    limit: int | None = None,
    batch_size: int | None = None,
    max_new_tokens: int = 64,
    stop: Sequence[str] = ("\n",),
    join: str = "auto",
    generation: Sequence[str] = (),
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
    control_seeds  how many random controls each arm gets, or fewer where there are not so many different ones
    control        what the controls of named experts have in common with them: "load", the same share of the evaluated
                   tokens' assignments, task by task, give or take `control_tolerance` times that share; or "count",
                   as many experts. Where nothing matches there are none, and the reason is said
    stop           texts that end an answer; join: what stands between a text and its target ("auto", "space", "none")
    generation     options of writing answers, "repetition_penalty=1.2" (see `probes.generation_config`)
    trace, run_id  the recording that recipes among the interventions ask
    seed           of the controls, resamples and tests
    resume         a work file: results already in it are kept, new ones are added to it

    ProbeError or UsageError, one line, before the model has run. Batches are planned from the items alone: a resumed
    evaluation gives the numbers of an uninterrupted one.
    """
    from probes.recording.record import name_of

    parsing.model_of(model, tokenizer)
    tasks = [tasks] if isinstance(tasks, (str, Path)) or not isinstance(tasks, Sequence) else tasks
    if not tasks:
        raise UsageError("no tasks are named; an evaluation asks at least one file of items")
    for task in tasks:
        parsing.place(task, "tasks")
    stop = [stop] if isinstance(stop, str) else stop
    if not isinstance(stop, Sequence) or not all(isinstance(text, str) for text in stop):
        raise UsageError(f"stop is a list of texts, not {stop!r}")
    check_load(load or {})
    decoding = Decoding(max_new_tokens, tuple(stop), options=option_texts(generation)).checked()
    for name, value, low in (("control-seeds", control_seeds, 0), ("batch-size", batch_size, 1), ("limit", limit, 1)):
        if value is not None or low == 0:
            whole(value, f"--{name}", low)
    whole(seed, "--seed")
    if join not in JOINS:
        raise unknown("join", str(join), JOINS)
    check_writable(resume)
    ask = Ask(control_seeds, seed, control, control_tolerance).checked()
    arms = arms_of(interventions, trace, run_id)
    _check_strategies(arms, decoding)
    for arm in arms:
        check_naming(arm.specs)
    prompts = read_items(tasks, limit)
    source = str(model) if isinstance(model, (str, Path)) else name_of(model)
    stored = stored_checkpoint(model)
    checkpoint = None if stored is None else stored[0]
    check_checkpoint(resume, checkpoint)
    model, tokenizer = loaded(model, tokenizer, load or {})
    routers = check_arms(arms, model, tokenizer)
    items = encode_items(prompts, model, tokenizer, max_new_tokens=max_new_tokens, join=join)
    scorer = Scorer(model, tokenizer, decoding, batch_size, any(map(step_by_step, arms)))
    settings = _settings(source, model, tokenizer, items, scorer, join) | {"checkpoint": checkpoint}
    work = WorkFile(resume, settings, lambda: _earlier(model, tokenizer))
    wheres = {where: None for arm in arms if control_seeds and (where := where_of(arm, routers, tokenizer))}
    loads = _counted(scorer, items, list(wheres), work, progress)
    matched = controls_of(arms, list(settings["tasks"]), routers, ask, loads, model, tokenizer)
    compared = [
        Arm(BASELINE),
        *(x for arm in arms for x in (arm, *(c for m in matched if m.arm == arm.name for c in m.arms))),
    ]
    _ask(scorer, items, compared, work, progress)
    records = _by_arm(work, compared, items)
    rows = rows_of(records, compared, seed, matched)
    return Evaluation(
        rows,
        _item_rows(items, compared, records),
        {arm.name: json.loads(arm.key) for arm in compared},
        {**settings, **_controlled(ask), "seed": seed, **_writing(scorer, items)},
        [
            *idle(rows),
            *key_notes([item.prompt for item in items]),
            *work.notes,
            *note_of(model),
            *infinite(records, compared),
            *(one.sentence() for one in matched),
            *_notes(scorer, rows, items),
        ],
        matched,
    )


def _check_strategies(arms: Sequence[Arm], decoding: Decoding) -> None:
    """UsageError for options of writing where an arm decodes by a strategy, which knows none of them."""
    strategy = next((arm.name for arm in arms if arm.strategy is not None), None)
    if decoding.options and strategy is not None:
        raise UsageError(f"--generation {decoding.options[0]} cannot be honoured by the decoding strategy {strategy}")


def _controlled(ask: Ask) -> dict[str, Any]:
    return {"control_seeds": ask.count, "control": ask.by, "control_tolerance": ask.tolerance}


def loaded(model: Any, tokenizer: Any, load: dict[str, Any]) -> tuple[Any, Any]:
    """The model and its tokenizer, loaded if a name is given."""
    if isinstance(model, (str, Path)):
        from probes.model import load_model

        return load_model(model, **load)
    return model, tokenizer


def _counted(
    scorer: Scorer, items: list[Item], wheres: list[Where], work: WorkFile, progress: Progress | None
) -> Loads:
    """The baseline over all items, and what each expert gets of them; what a work file holds is not done again."""
    loads, baseline = Loads(), Arm(BASELINE)
    batches = _batches(items, scorer) if wheres else []
    for number, batch in enumerate(batches):
        task = batch[0].task
        missing = not all(work.has(baseline.key, item.task, item.number) for item in batch)
        if missing or not all(work.has(key_of(where), task, number) for where in wheres):
            if progress:
                progress(number, 2 * len(batches), BASELINE)
            records, _ = scorer.batch(batch, baseline, number, None)
            found = count(scorer.model, scorer.tokenizer, _texts(batch, scorer), wheres, scorer.batch_size)
            for where, counts in found.items():
                plain = {str(layer): row.tolist() for layer, row in counts.items()}
                work.add(key_of(where), [{"task": task, "item": number, "counts": plain}])
            work.add(baseline.key, records if missing else [])
        for where in wheres:
            kept = work.records[(key_of(where), task, number)]["counts"]
            loads.add(task, where, {int(layer): np.array(row) for layer, row in kept.items()})
    return loads


def _texts(batch: list[Item], scorer: Scorer) -> list[Text]:
    """What the baseline was scored on and what it wrote, as token ids with the place where writing begins."""
    kind = batch[0].kind
    ends = [(item, c) for item in batch for c in (item.continuations if kind == "choice" else [item.target])]
    scored = [
        (np.concatenate([i.ids if kind != "text" else i.before_target, c]), len(i.before_target)) for i, c in ends
    ]
    written = [(np.concatenate([i.ids, ids]), len(i.ids)) for i, ids in zip(batch, scorer.wrote, strict=False)]
    return [*scored, *written]


def _ask(scorer: Scorer, items: list[Item], arms: list[Arm], work: WorkFile, progress: Progress | None) -> None:
    """All batches under all arms not in the work file yet; the baseline first, since KL is measured from it."""
    batches = _batches(items, scorer)
    done = len(batches) if any(arm.task for arm in arms) else 0  # those that were counted
    for number, batch in enumerate(batches):
        asked = [arm for arm in arms if arm.asks(batch[0].task)]
        missing = [arm for arm in asked if not all(work.has(arm.key, item.task, item.number) for item in batch)]
        base = scorer.base(batch, arms[0]) if missing and arms[0] not in missing else None
        for arm in missing:
            if progress:
                progress(done + number, done + len(batches), arm.name)
            records, found = scorer.batch(batch, arm, number, base)
            base = found if base is None else base
            work.add(arm.key, records)
    if progress:
        progress(done + len(batches), done + len(batches), "")


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
    return {
        arm.name: [work.records[(arm.key, item.task, item.number)] for item in items if arm.asks(item.task)]
        for arm in arms
    }


def _item_rows(items: list[Item], arms: list[Arm], records: dict[str, list[Record]]) -> list[dict[str, Any]]:
    return [
        {"arm": arm.name, "id": item.prompt.prompt_id, "label": item.prompt.label, "expected": item.answer, **record}
        for arm in arms
        for item, record in zip([i for i in items if arm.asks(i.task)], records[arm.name], strict=True)
    ]


def _settings(source: str, model: Any, tokenizer: Any, items: list[Item], scorer: Scorer, join: str) -> dict[str, Any]:
    """What decides the records, so that a work file is never continued with something else."""
    from probes.recording.fingerprints import settings_fingerprint, tokenizer_fingerprint, weights_fingerprint
    from probes.recording.provenance import describe_model, software
    from probes.steering import active

    described = describe_model(model, source, None)
    return {
        **{name: described[name] for name in ("model", "revision", "dtype")},
        "weights_fingerprint": weights_fingerprint(model),
        "tokenizer_hash": tokenizer_fingerprint(tokenizer),
        "settings_fingerprint": settings_fingerprint(model),
        "versions": {name: software()[name] for name in ("torch", "transformers")},
        "tasks": dict(Counter(item.task for item in items)),
        "items": items_hash(items),
        "decoding": _decoding(scorer),
        "batch_size": scorer.batch_size,
        "join": join,
        "under": [] if (steering := active(model)) is None else steering.as_list(),
        "reading": "token by token" if scorer.stepwise else "in one pass",
    }


def _earlier(model: Any, tokenizer: Any) -> dict[str, Any]:
    """How the first version told models apart."""
    from probes.recording.provenance import earlier_tokenizer_hash, earlier_weights_fingerprint

    return {
        "weights_fingerprint": earlier_weights_fingerprint(model),
        "tokenizer_hash": earlier_tokenizer_hash(tokenizer),
    }


def _decoding(scorer: Scorer) -> dict[str, Any]:
    """Options only where there are any: work files of before this option existed go on."""
    settings = asdict(scorer.decoding)
    return settings if settings["options"] else {name: value for name, value in settings.items() if name != "options"}


def _writing(scorer: Scorer, items: Sequence[Item]) -> dict[str, Any]:
    """How answers were written; empty where none was."""
    if not any(item.kind == "answer" for item in items):
        return {}
    left = left_aside(scorer.model)
    done = used(scorer.decoding.config(scorer.model, scorer.tokenizer))
    return {"generation": {**done, **({"checkpoint_options_not_used": left} if left else {})}}


def _notes(scorer: Scorer, rows: list[Row], items: Sequence[Item]) -> list[str]:
    answers = any(item.kind == "answer" for item in items)
    tests = sum(p is not None for row in rows for p in (row.p, row.p_control))
    return [
        f"targets were read {'token by token, as in decoding' if scorer.stepwise else 'in one pass'}",
        "intervals: percentile bootstrap over items, paired, 2,000 resamples",
        f"p: sign-flip test over items, 10,000 to 100,000 flips; p_holm: Holm's correction over all {tests} tests here",
        *filter(None, [words_of(left_aside(scorer.model)) if answers else ""]),
    ]
