"""Whose run is it? What a run must share with a new recording to be gone on with, and how the two are compared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from probes.recording.plan import fingerprint, plan_batches

if TYPE_CHECKING:
    from probes.interventions.spec import Spec
    from probes.recording.encode import EncodedPrompt
    from probes.recording.options import RecordOptions

VERSION = 1
# Options that say where and how a model is run, or that are judged by what they lead to: its weights, the prompts.
NOT_COMPARED = ("device", "trust_remote_code", "dtype", "revision", "limit", "shard")
OF_THE_MODEL = ("weights", "tokenizer", "settings")
SAMPLE = "a sample of the weights"  # all that the first version looked at


@dataclass(frozen=True)
class Identity:
    """What decides the rows of a run; None for what is not known.

    plan        prompts, labels, options, interventions
    weights     every bit of the loaded weights       settings   configuration, what the routers go by, adapters
    tokenizer   its definition                        checkpoint the files the model was loaded from
    device      kind of device the batches were planned for; it is not compared
    """

    plan: str
    tokenizer: str | None = None
    weights: str | None = None
    settings: str | None = None
    checkpoint: str | None = None
    device: str = "cpu"

    @property
    def fingerprint(self) -> str:
        """One hash of all that is compared."""
        parts = [self.plan, self.tokenizer, self.weights or self.checkpoint, self.settings]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]

    def stored(self) -> dict[str, Any]:
        """As the provenance of a run keeps it."""
        return {"version": VERSION, **asdict(self)}


@dataclass(frozen=True)
class Verdict:
    """Of a stored run and a new recording: is the plan the same, and what of the model differs or cannot be told?"""

    same_plan: bool
    other: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        return self.same_plan and not self.other

    @property
    def in_words(self) -> str:
        """What differs of the model, after "is"."""
        return f"of another model (other {' and other '.join(self.other)})"


@dataclass(frozen=True)
class Ours:
    """The recording that is to be made: its identity, and all that an earlier version would have looked at.

    model: None while it is not loaded yet.
    """

    identity: Identity
    prompts: Sequence[EncodedPrompt]
    options: RecordOptions
    under: tuple[Spec, ...]
    model: Any
    tokenizer: Any

    def earlier(self, provenance: Mapping[str, Any]) -> Earlier:
        """As the first version would have described it, had it run where the stored run was made."""
        from probes.recording.provenance import earlier_tokenizer_hash, earlier_weights_fingerprint

        return Earlier(
            plan=earlier_plan(self.prompts, self.options, self.under, provenance),
            weights=None if self.model is None else earlier_weights_fingerprint(self.model),
            tokenizer=earlier_tokenizer_hash(self.tokenizer),
        )


@dataclass(frozen=True)
class Earlier:
    """What the first version stored of a run: hashes of its plan, of a sample of its weights, and of its tokenizer."""

    plan: str
    weights: str | None
    tokenizer: str | None


def compare(provenance: Mapping[str, Any], ours: Ours) -> Verdict:
    """A stored run beside the recording to be made."""
    stored = provenance.get("identity")
    if not isinstance(stored, Mapping):
        return _compare_earlier(provenance, ours)
    mine = asdict(ours.identity)
    # Files laid out anew hold the same weights, so they decide only while the weights themselves are not known.
    loaded = bool(stored.get("weights") and mine["weights"])
    parts = OF_THE_MODEL if loaded else (*OF_THE_MODEL, "checkpoint")
    known = [name for name in parts if stored.get(name) and mine[name]]
    other = tuple("weights" if name == "checkpoint" else name for name in known if stored[name] != mine[name])
    unknown = () if {"weights", "checkpoint"} & set(known) else ("weights",)
    return Verdict(stored.get("plan") == mine["plan"], other, unknown)


def _compare_earlier(provenance: Mapping[str, Any], ours: Ours) -> Verdict:
    """A run of the first version: as far as it can be compared, by the hashes of that version."""
    if "fingerprint" not in provenance:
        return Verdict(False)  # an import, or no recording of ours
    mine = ours.earlier(provenance)
    pairs = {
        "weights": (provenance.get("weights_fingerprint"), mine.weights),
        "tokenizer": (provenance.get("tokenizer_hash"), mine.tokenizer),
    }
    other = tuple(name for name, (a, b) in pairs.items() if a and b and a != b)
    unknown = tuple(name for name, (a, b) in pairs.items() if not (a and b))
    return Verdict(provenance["fingerprint"] == mine.plan, other, unknown or (SAMPLE,))


def plan_fingerprint(prompts: Sequence[EncodedPrompt], options: RecordOptions, under: Sequence[Spec]) -> str:
    """A hash of what is fed, how it is labelled, what is kept of it, and under which interventions."""
    settings = {name: value for name, value in options.settings().items() if name not in NOT_COMPARED}
    told = [
        (item.sequence_id, item.prompt.prompt_id, item.prompt.label, item.prompt.target, item.prompt.metadata)
        for item in prompts
    ]
    steered = [spec.as_dict() for spec in under]
    return fingerprint([item.ids for item in prompts], [], {"settings": settings, "under": steered, "prompts": told})


def earlier_plan(
    prompts: Sequence[EncodedPrompt], options: RecordOptions, under: Sequence[Spec], provenance: Mapping[str, Any]
) -> str:
    """The fingerprint the first version would have given: batches of the device it ran on, its own list of options."""
    stored = provenance.get("options") or {}
    # JSON has no tuples, but the hash was made of the JSON text: nothing is lost.
    settings = {name: getattr(options, name, value) for name, value in stored.items()}
    settings |= {name: stored[name] for name in ("device", "trust_remote_code") if name in stored}
    if under:
        settings["interventions"] = [spec.as_dict() for spec in under]
    lengths = [len(item.ids) + options.max_new_tokens for item in prompts]
    device = str(provenance.get("device") or "cpu").partition(":")[0]
    batches = plan_batches(lengths, options.batch_size, device)
    return fingerprint([item.ids for item in prompts], batches, settings)
