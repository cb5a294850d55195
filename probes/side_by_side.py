"""One prompt, plain and steered, side by side: the texts, and what the intervention did to tokens and experts.

    found = side_by_side(model, tokenizer, "47+35=", ["ban:layer=3,expert=14"], decoding=Decoding(40, stop=("\n",)))
    found.baseline.text, found.steered.text, found.tokens[3].kl

Two questions are kept apart. What does it write? Both texts are generated freely. What does it think of the same text?
Prompt and baseline text are read again under both, token by token as they were written, so that probabilities and
choices of experts belong to the same tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from difflib import SequenceMatcher
from typing import Any

import numpy as np

from probes.errors import ProbeError, UsageError
from probes.evaluation.score import acted_in
from probes.generation import Decoding, Generated, distributions, generate, kl
from probes.generation_config import left_aside, require_decoder, used, words_of
from probes.interventions import Spec, parse_all
from probes.interventions.values import check_naming
from probes.prompts import Prompt
from probes.recording.encode import context_length, encode_prompts
from probes.recording.tokens import TokenTexts

Step = Callable[[str, str], None]  # ("baseline" or "steered", the text so far)


@dataclass(frozen=True)
class Side:
    """What was written. tokens: the texts of `ids`; length: tokens before the stop; finished: it ended by itself."""

    text: str
    ids: list[int]
    tokens: list[str]
    length: int
    finished: bool


@dataclass(frozen=True)
class TokenChange:
    """A token of the prompt or of the baseline's text, as both runs see it.

    logprob, steered_logprob    ln p of this token, given those before; None for the first
    kl                          KL(baseline ‖ steered) of the distribution this token was taken from, nats
    predicted, steered_predicted  the most likely token in its place
    changed_layers              layers that sent it to another set of experts; None where it was not fed
    """

    position: int
    token_id: int
    token: str
    generated: bool
    logprob: float | None
    steered_logprob: float | None
    kl: float | None
    predicted: str | None
    steered_predicted: str | None
    changed_layers: list[int] | None


@dataclass(frozen=True)
class Difference:
    """Where the two texts part: `op` is replace, insert or delete; the token spans and their texts."""

    op: str
    baseline_span: tuple[int, int]
    steered_span: tuple[int, int]
    baseline: str
    steered: str


@dataclass(frozen=True)
class LayerChange:
    """One layer: tokens read by both runs, and how many of them went to another set of experts."""

    layer: int
    n_tokens: int
    changed: int

    @property
    def share(self) -> float:
        return self.changed / self.n_tokens if self.n_tokens else float("nan")


@dataclass(frozen=True)
class ExpertChange:
    """An expert that was chosen more or less often, over the same tokens."""

    layer: int
    expert: int
    baseline: int
    steered: int

    @property
    def change(self) -> int:
        return self.steered - self.baseline


@dataclass(frozen=True)
class SideBySide:
    """The whole comparison; plain data. experts: those whose count changed, losses first."""

    prompt: str
    interventions: list[dict[str, Any]]
    baseline: Side
    steered: Side
    tokens: list[TokenChange]
    differences: list[Difference]
    layers: list[LayerChange]
    experts: list[ExpertChange]
    trace: str | None = None
    baseline_run_id: int | None = None
    steered_run_id: int | None = None
    notes: list[str] = field(default_factory=list)
    generation: dict[str, Any] = field(default_factory=dict)  # how both texts were written

    @property
    def changed_share(self) -> float:
        """Share of (token, layer) that went to another set of experts."""
        total = sum(layer.n_tokens for layer in self.layers)
        return sum(layer.changed for layer in self.layers) / total if total else float("nan")

    def mean_kl(self, generated: bool) -> float | None:
        """Mean KL per token of the prompt or of the baseline's text, nats; None where there is none."""
        values = [t.kl for t in self.tokens if t.generated is generated and t.kl is not None]
        return float(np.mean(values)) if values else None

    def logprob_change(self, generated: bool) -> float | None:
        """How much more probable the prompt or the baseline's text became under the intervention, in nats in all."""
        pairs = [(t.logprob, t.steered_logprob) for t in self.tokens if t.generated is generated]
        known = [after - before for before, after in pairs if before is not None and after is not None]
        return float(sum(known)) if known else None

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, with the sums."""
        parts = {"prompt": False, "generated": True}
        return {
            **asdict(self),
            "layers": [{**asdict(layer), "share": layer.share} for layer in self.layers],
            "experts": [{**asdict(expert), "change": expert.change} for expert in self.experts],
            "changed_share": self.changed_share,
            "mean_kl": {name: self.mean_kl(part) for name, part in parts.items()},
            "logprob_change": {name: self.logprob_change(part) for name, part in parts.items()},
        }


@dataclass(frozen=True)
class _Reading:
    """A text as one run reads it: ln p [n - 1, V] of all tokens but the first, layer -> experts [n', k]."""

    log_p: Any
    experts: dict[int, np.ndarray]


def side_by_side(
    model: Any,
    tokenizer: Any,
    prompt: str | Prompt,
    interventions: Any,
    *,
    decoding: Decoding | None = None,
    on_step: Step | None = None,
    trace: str | None = None,
) -> SideBySide:
    """Generate from `prompt` plainly and under `interventions`, and compare.

    prompt    text, or a `Prompt` with messages for the model's chat template
    on_step   called after each token with which of the two it is, and its text so far
    trace     a trace to write both runs into, the steered one with its interventions and the baseline's run id; not for
              drawn tokens, since a recording writes the most likely ones

    UsageError for interventions that do not fit, before anything is generated.
    """
    from probes.steering import steer

    specs = check_naming(parse_all(interventions))
    if not specs:
        raise UsageError("no intervention to compare with the baseline")
    decoding = (decoding or Decoding()).checked()
    require_decoder(model)
    if trace and decoding.sample:
        raise UsageError("a drawn text cannot be recorded: a recording writes the most likely tokens")
    asked = prompt if isinstance(prompt, Prompt) else Prompt(source="prompt", prompt_id="prompt", text=prompt)
    ids, text = _encoded(asked, model, tokenizer, decoding.max_new_tokens)

    def steered() -> Any:
        return steer(model, specs, tokenizer=tokenizer)

    with steered():
        pass  # what does not fit is said before the baseline has run
    sides, readings = [], []
    for name, manner in (("baseline", nullcontext), ("steered", steered)):
        told = None if on_step is None else (lambda texts, name=name: on_step(name, texts[0]))
        with manner():
            sides.append(generate(model, tokenizer, [ids], decoding, told)[0])
    written = sides[0].ids.astype(np.int64)
    acted = None
    for manner in (nullcontext, steered):
        with manner() as steering:
            readings.append(_read(model, tokenizer, ids, written))
        acted = acted_in(steering, "the prompt") if steering is not None else None
    runs = _recorded(model, tokenizer, asked, specs, sides, trace, decoding.options) if trace else {}
    facts = {**runs, **_writing(model, tokenizer, decoding)}
    if acted is False:
        facts["notes"].append("the interventions acted on no token: nothing here is in their scope")
    return _compared(tokenizer, text, specs, ids, sides, readings, facts)


def _writing(model: Any, tokenizer: Any, decoding: Decoding) -> dict[str, Any]:
    """How both texts were written, and what of the checkpoint's own was not used."""
    left = left_aside(model)
    done = used(decoding.config(model, tokenizer))
    return {
        "generation": {**done, **({"checkpoint_options_not_used": left} if left else {})},
        "notes": [*filter(None, [words_of(left)])],
    }


def _encoded(prompt: Prompt, model: Any, tokenizer: Any, new_tokens: int) -> tuple[np.ndarray, str]:
    if not (prompt.text or prompt.messages):
        raise UsageError("the prompt is empty")
    good, bad = encode_prompts(
        [prompt], tokenizer, max_length=None, context=context_length(model), new_tokens=new_tokens
    )
    if bad:
        raise ProbeError(str(bad[0]))
    return good[0].ids.astype(np.int64), good[0].text


def _read(model: Any, tokenizer: Any, ids: np.ndarray, written: np.ndarray) -> _Reading:
    """Prompt and text once more: the prompt's own tokens in one pass, the text's token by token after it."""
    import torch

    from probes.capture import Want, capture

    parts = []
    if len(ids) > 1:
        parts += distributions(model, tokenizer, [ids[:1]], [ids[1:]])
    want = Want(logits=False, weights=False, norms=False)
    with capture(model, want) as recorder:
        parts += distributions(model, tokenizer, [ids], [written], stepwise=True)
        forwards = recorder.take()
    layers = {layer for forward in forwards for layer in forward.routing}
    chosen = {la: [np.asarray(f.routing[la].experts) for f in forwards if la in f.routing] for la in sorted(layers)}
    return _Reading(torch.cat(parts), {layer: _stacked(rows) for layer, rows in chosen.items()})


def _stacked(rows: list[np.ndarray]) -> np.ndarray:
    """[n, k] of passes that may differ in width (fewer experts in decoding, say); -1 where there is no slot."""
    width = max(part.shape[1] for part in rows)
    return np.concatenate(
        [np.pad(part, ((0, 0), (0, width - part.shape[1])), constant_values=-1) for part in rows]
    ).astype(np.int64)


def _compared(
    tokenizer: Any,
    text: str,
    specs: Sequence[Spec],
    ids: np.ndarray,
    sides: list[Generated],
    readings: list[_Reading],
    runs: dict[str, Any],
) -> SideBySide:
    texts = TokenTexts(tokenizer)
    before, after = readings
    changed = {la: _changed(before.experts[la], after.experts[la]) for la in before.experts if la in after.experts}
    return SideBySide(
        prompt=text,
        interventions=[spec.as_dict() for spec in specs],
        baseline=_side(sides[0], texts),
        steered=_side(sides[1], texts),
        tokens=_tokens(np.concatenate([ids, sides[0].ids]), len(ids), before.log_p, after.log_p, changed, texts),
        differences=_differences(*(texts(side.ids.tolist()) for side in sides)),
        layers=[LayerChange(layer, len(rows), int(rows.sum())) for layer, rows in changed.items()],
        experts=_experts(before.experts, after.experts),
        **runs,
    )


def _side(side: Generated, texts: TokenTexts) -> Side:
    ids = side.ids.tolist()
    return Side(side.text, ids, texts(ids), side.length, side.finished)


def _changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """[n] bool: tokens whose set of experts differs."""
    sets = ([frozenset(row[row >= 0].tolist()) for row in rows] for rows in (before, after))
    return np.array([a != b for a, b in zip(*sets, strict=True)], bool)


def _tokens(
    ids: np.ndarray, start: int, before: Any, after: Any, changed: dict[int, np.ndarray], texts: TokenTexts
) -> list[TokenChange]:
    import torch

    shifted = torch.as_tensor(ids[1:], device=before.device)[:, None]
    logprobs = [[None, *log_p.gather(1, shifted)[:, 0].tolist()] for log_p in (before, after)]
    predicted = [[None, *texts(log_p.argmax(-1).tolist())] for log_p in (before, after)]
    divergence = [None, *kl(before, after).tolist()]
    rows = zip(ids.tolist(), texts(ids.tolist()), *logprobs, divergence, *predicted, strict=True)
    return [
        TokenChange(position, token, text, position >= start, p, q, d, first, second, _layers_at(changed, position))
        for position, (token, text, p, q, d, first, second) in enumerate(rows)
    ]


def _layers_at(changed: dict[int, np.ndarray], position: int) -> list[int] | None:
    """The last token of a text is written, but not fed."""
    fed = {layer: rows for layer, rows in changed.items() if position < len(rows)}
    return [layer for layer, rows in fed.items() if rows[position]] if fed else None


def _differences(baseline: list[str], steered: list[str]) -> list[Difference]:
    matcher = SequenceMatcher(None, baseline, steered, autojunk=False)
    return [
        Difference(op, (a, b), (c, d), "".join(baseline[a:b]), "".join(steered[c:d]))
        for op, a, b, c, d in matcher.get_opcodes()
        if op != "equal"
    ]


def _experts(before: dict[int, np.ndarray], after: dict[int, np.ndarray]) -> list[ExpertChange]:
    found = []
    for layer in before:
        size = int(max(before[layer].max(initial=-1), after[layer].max(initial=-1))) + 1
        counts = [np.bincount(rows[layer][rows[layer] >= 0], minlength=size) for rows in (before, after)]
        pairs = zip(*(count.tolist() for count in counts), strict=True)
        found += [ExpertChange(layer, expert, a, b) for expert, (a, b) in enumerate(pairs) if a != b]
    return sorted(found, key=lambda one: (one.change, one.layer, one.expert))


def _recorded(
    model: Any,
    tokenizer: Any,
    prompt: Prompt,
    specs: Sequence[Spec],
    sides: list[Generated],
    trace: str,
    options: tuple[str, ...],
) -> dict[str, Any]:
    """Both runs into `trace`, each generating as many tokens as it did."""
    from probes.prompts import Prompts
    from probes.recording.record import record

    common = {"tokenizer": tokenizer, "progress": False, "generation": options}
    prompts = Prompts([prompt], [])
    plain = record(model, prompts, trace, name="baseline", max_new_tokens=len(sides[0].ids), **common)
    steered = record(
        model,
        prompts,
        trace,
        name="steered",
        max_new_tokens=len(sides[1].ids),
        interventions=[spec.as_dict() for spec in specs],
        baseline=plain.run_id,
        **common,
    )
    return {"trace": str(trace), "baseline_run_id": plain.run_id, "steered_run_id": steered.run_id}


__all__ = ["Difference", "ExpertChange", "LayerChange", "Side", "SideBySide", "TokenChange", "side_by_side"]
