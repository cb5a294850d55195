"""Record a model's routing over prompts into a trace: the use case that ties model, hooks and store together."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probes import parsing
from probes.errors import ProbeError, UsageError
from probes.generation_config import option_texts, require_generation
from probes.interventions.spec import Spec, parse_all
from probes.interventions.values import check_naming
from probes.prompts import BadPrompt, Prompts, key_notes, read_prompts
from probes.recording.encode import EncodedPrompt, context_length, encode_prompts
from probes.recording.fingerprints import stored_checkpoint
from probes.recording.identity import Identity, Ours, plan_fingerprint
from probes.recording.options import RecordOptions, check_options, parse_capture
from probes.recording.plan import plan_batches, take_shard
from probes.recording.target import (
    Asked,
    begun_on,
    check_baseline,
    check_target,
    find_run,
    open_writer,
    refuse_interrupted,
)

if TYPE_CHECKING:
    from probes.recording.session import Feeder
    from store.batch import LayerInfo, RunInfo
    from store.writer import TraceWriter

COMPLETE = "this run was complete already"
NEVER_ACTED = "the interventions acted on no token: none was in their scope"

# tqdm's own, but always tokens per second, also where one takes longer than that.
PROGRESS = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"


@dataclass(frozen=True)
class Recorded:
    """What a finished `record` did: where it is, how much it is, and which prompts it had to leave out."""

    path: str
    run_id: int
    sequences: int
    tokens: int
    seconds: float
    bytes: int
    left_out: list[BadPrompt] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def describe(self) -> str:
        """One line for people."""
        rate = f", {self.tokens / self.seconds:,.0f} tokens/s" if self.seconds > 0 and self.tokens else ""
        return (
            f"run {self.run_id} in {self.path}: {self.sequences:,} sequences, {self.tokens:,} tokens, "
            f"{self.bytes / 1e6:,.1f} MB in {self.seconds:.1f} s{rate}"
        )


@dataclass(frozen=True)
class Job:
    """Everything that is fixed before the first forward pass."""

    prompts: list[EncodedPrompt]
    batches: list[list[int]]
    fingerprint: str  # of the plan alone
    left_out: list[BadPrompt]
    device: str = "cpu"  # the kind of device that the batches are planned for
    notes: list[str] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        return sum(len(prompt.ids) for prompt in self.prompts)


def record(
    model: Any,
    prompts: str | Path | Prompts,
    out: str | Path,
    *,
    tokenizer: Any = None,
    resume: bool = False,
    name: str | None = None,
    progress: bool | None = None,
    options: RecordOptions | None = None,
    interventions: Any = None,
    baseline: int | None = None,
    **settings: Any,
) -> Recorded:
    """Record `prompts` through `model` into the trace `out`.

    model    a folder or hub name, or a loaded model together with its `tokenizer`
    prompts  a path (see `probes.prompts`) or prompts already read
    out      a new trace, or one of the same model, to which a run is added
    resume   go on with the interrupted run in `out`; begins a new one if there is none
    interventions  what the model is steered by meanwhile (see `probes.steer`); stored with the run
    baseline  run in `out` to compare with, stored with the run
    settings fields of RecordOptions by name (capture="logits,norms", max_new_tokens=32, ...)

    Raises ProbeError or store.errors.TraceError, one line each; what is recorded by then stays.
    """
    parsing.model_of(model, tokenizer)
    out = parsing.place(out, "out")
    options = check_options(options or options_from(**settings))
    specs = check_naming(parse_all(interventions))
    if baseline is not None:
        parsing.whole(baseline, "--baseline", 1)
    if not isinstance(prompts, Prompts):
        prompts = read_prompts(parsing.place(prompts, "prompts"), options.limit)
    check_target(out)
    check_baseline(out, baseline)
    source = str(model) if isinstance(model, str | Path) else name_of(model)
    checkpoint = stored_checkpoint(model)
    if not resume:
        refuse_interrupted(out)
    elif checkpoint is not None and out.exists():
        from probes.recording.early import complete_already

        done = complete_already(str(model), checkpoint, prompts, out, options, specs, baseline)
        if done is not None:
            return done
    model, tokenizer = _loaded(model, tokenizer, options)
    if options.max_new_tokens:
        require_generation(model)
    under = (*_steered_by(model), *specs)
    job = prepare(model, tokenizer, prompts, options, under, begun_on(out) if resume else None)
    identity = _identity(model, tokenizer, job, None if checkpoint is None else checkpoint[0])
    run = _Run(model, tokenizer, job, options, source, identity, name, specs, under, baseline)
    return run.into(out, resume=resume, progress=progress)


def _identity(model: Any, tokenizer: Any, job: Job, checkpoint: str | None) -> Identity:
    from probes.recording.fingerprints import settings_fingerprint, tokenizer_fingerprint, weights_fingerprint

    return Identity(
        plan=job.fingerprint,
        tokenizer=tokenizer_fingerprint(tokenizer),
        weights=weights_fingerprint(model),
        settings=settings_fingerprint(model),
        checkpoint=checkpoint,
        device=job.device,
    )


def _steered_by(model: Any) -> tuple[Spec, ...]:
    """What the caller steers the model by already; it belongs to the run as well."""
    from probes.steering import active

    steering = active(model)
    return () if steering is None else steering.specs


def options_from(capture: str | Sequence[str] | None = None, **settings: Any) -> RecordOptions:
    """RecordOptions from loose settings; `capture` as text or as a sequence of levels."""
    text = _level_names(capture)
    try:
        generation = option_texts(settings.pop("generation", None))
        options = RecordOptions(capture=parse_capture(text), generation=generation, **settings)
    except TypeError as error:
        raise UsageError(f"record: {str(error).split('__init__() ')[-1]}") from error
    return replace(options, layers=parsing.layers(options.layers))


def _level_names(capture: Any) -> str | None:
    """Capture levels as one text; UsageError for what is neither text nor a sequence of texts."""
    if capture is None or isinstance(capture, str):
        return capture
    levels = list(capture) if isinstance(capture, Iterable) else [capture]
    if not all(isinstance(level, str) for level in levels):
        raise UsageError(f"capture takes the names of levels, as in 'logits,norms', not {capture!r}")
    return ",".join(levels)


def name_of(model: Any) -> str:
    """Where a loaded model came from, whatever is wrapped around it."""
    from probes.capture.within import config_of

    return getattr(config_of(model), "_name_or_path", "") or "in memory"


def prepare(
    model: Any,
    tokenizer: Any,
    prompts: Prompts,
    options: RecordOptions,
    under: tuple[Spec, ...] = (),
    planned_for: str | None = None,
) -> Job:
    """Tokenize, cut into batches, and fingerprint: the part of a recording that needs no forward pass.

    planned_for: the kind of device whose batches are wanted; the model's own if None. A resumed run keeps the batches
    it began with, wherever it goes on.
    """
    from probes.capture.within import device_of

    encoded, too_long = encode_prompts(
        prompts.good,
        tokenizer,
        max_length=options.max_length,
        context=context_length(model),
        new_tokens=options.max_new_tokens,
    )
    encoded = take_shard(encoded, options.shard)
    if not encoded:
        raise ProbeError(f"shard {options.shard} holds no prompt: there are fewer prompts than shards")
    lengths = [len(item.ids) + options.max_new_tokens for item in encoded]
    device = planned_for or device_of(model).type
    batches = plan_batches(lengths, options.batch_size, device)
    plan = plan_fingerprint(encoded, options, under)
    return Job(encoded, batches, plan, [*prompts.bad, *too_long], device, key_notes(prompts.good))


def _loaded(model: Any, tokenizer: Any, options: RecordOptions) -> tuple[Any, Any]:
    if isinstance(model, str | Path):
        from probes.model import load_model

        return load_model(
            model,
            dtype=options.dtype,
            device=options.device,
            revision=options.revision,
            trust_remote_code=options.trust_remote_code,
        )
    return model, tokenizer


def recorded(out: Path, run_id: int | None, started: float, left_out: list[BadPrompt], notes: list[str]) -> Recorded:
    """What a finished run in `out` is. started: by `time.perf_counter`."""
    from store.trace import open_trace

    run = open_trace(out).run(run_id)
    return Recorded(
        path=str(out),
        run_id=int(run["run_id"]),
        sequences=int(run["n_sequences"]),
        tokens=int(run["n_tokens"]),
        seconds=time.perf_counter() - started,
        bytes=out.stat().st_size,
        left_out=left_out,
        notes=notes,
    )


@dataclass
class _Run:
    """A prepared recording, about to be written into a trace."""

    model: Any
    tokenizer: Any
    job: Job
    options: RecordOptions
    source: str
    identity: Identity
    name: str | None
    specs: tuple[Spec, ...] = ()
    under: tuple[Spec, ...] = ()
    baseline: int | None = None

    def into(self, out: Path, *, resume: bool, progress: bool | None) -> Recorded:
        from probes.recording.session import feeder

        started = time.perf_counter()
        earlier, said = find_run(out, self._asked()) if resume else (None, [])
        with feeder(self.model, self.tokenizer, self.options, self.specs) as feed:
            writer = open_writer(out, self._info(feed), _layers(feed), self._kept(), earlier)
            if writer is None:
                said += [*self.job.notes, *feed.notes, COMPLETE]
                return recorded(out, None if earlier is None else earlier["run_id"], started, self.job.left_out, said)
            with writer:
                done = writer.batches_done
                self._feed(feed, writer, done, progress)
                # Of the batches before an interruption it is not known.
                acted = feed.acted or (None if done else feed.acted)
                writer.finish(facts=None if acted is None else {"acted": acted})
            said += [f"went on after {done} of {len(self.job.batches)} batches"] if done else []
            said = [*self.job.notes, *feed.notes, *([NEVER_ACTED] if acted is False else []), *said]
            return recorded(out, writer.run_id, started, self.job.left_out, said)

    def _asked(self) -> Asked:
        ours = Ours(self.identity, self.job.prompts, self.options, self.under, self.model, self.tokenizer)
        return Asked(ours, self.baseline)

    def _feed(self, feed: Feeder, writer: TraceWriter, done: int, progress: bool | None) -> None:
        from tqdm import tqdm

        prompts, new = self.job.prompts, self.options.max_new_tokens
        tokens = list(accumulate(sum(len(prompts[i].ids) + new for i in batch) for batch in self.job.batches))
        hidden = None if progress is None else not progress  # None: shown on a terminal, silent in a pipe
        with tqdm(
            total=tokens[-1], initial=tokens[done - 1] if done else 0, unit=" tokens", unit_scale=True,
            bar_format=PROGRESS, disable=hidden,
        ) as bar:  # fmt: skip
            feed.stepped = bar.update
            for index in range(done, len(self.job.batches)):
                writer.write(feed.batch(index, [prompts[i] for i in self.job.batches[index]]))
                bar.set_postfix_str(f"{writer.bytes_written / 1e6:.1f} MB", refresh=False)
                bar.update(tokens[index] - bar.n)  # its prompts, and what was not generated because it ended before

    def _info(self, feed: Feeder) -> RunInfo:
        from probes.capture.within import text_config
        from probes.recording.expert_bytes import expert_bytes
        from probes.recording.provenance import command_line, describe_model, software
        from store.batch import RunInfo

        described = describe_model(self.model, self.source, self.options.revision)
        return RunInfo(
            name=self.name or Path(self.source).name,
            model=self.source,
            revision=described["revision"],
            intervention=[spec.as_dict() for spec in self.under] or None,
            baseline_run_id=self.baseline,
            num_layers=getattr(text_config(self.model), "num_hidden_layers", None),
            provenance={
                **described,
                "weights_fingerprint": self.identity.weights,
                "tokenizer_hash": self.identity.tokenizer,
                "fingerprint": self.identity.fingerprint,
                "identity": self.identity.stored(),
                "options": self.options.settings(),
                "software": software(),
                "command": command_line(),
                "gating": feed.recorder.gating_parameters,
                "expert_bytes": expert_bytes([r.found for r in feed.recorder.report.layers], self._folder),
                "self_test": feed.recorder.report.summary,
                **({"generation": written} if (written := feed.written()) else {}),
                "notes": [*feed.recorder.report.notes, *self.job.notes, *feed.notes],
            },
        )

    @property
    def _folder(self) -> Path | None:
        """Of the checkpoint, if the model was loaded from one here."""
        return None if self.identity.checkpoint is None else Path(self.source).expanduser()

    def _kept(self) -> dict[str, Any]:
        return {
            "levels": list(self.options.capture),
            "logit_rate": self.options.logit_rate,
            "output_rate": self.options.output_rate,
        }


def _layers(feed: Feeder) -> list[LayerInfo]:
    from probes.scores import UNKNOWN
    from store.batch import LayerInfo

    return [
        LayerInfo(
            layer=router.layer,
            module=router.module,
            num_experts=router.num_experts,
            top_k=router.top_k,
            gating=f"{feed.settings.scoring[router.layer] or UNKNOWN}: {router.gating}",
            shared_experts=router.shared_experts,
            stream=router.stream,
            slots=max(1, feed.settings.slots.get(router.layer, router.top_k)),
        )
        for router in feed.settings.routers
    ]
