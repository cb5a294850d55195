"""Running a prepared recording: batches through the model, their rows to the writer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from probes.capture.head import last_only, takes_logits_to_keep
from probes.capture.within import config_of, device_of, reader, wrappers
from probes.errors import ProbeError
from probes.generation_config import (
    decoder_start_id,
    end_token_ids,
    generation_config,
    left_aside,
    used,
    words_of,
    write,
)
from probes.prompts import Prompt
from probes.recording.encode import EncodedPrompt
from probes.recording.options import RecordOptions
from probes.recording.rows import RowSettings, batch_rows
from probes.recording.streams import ENCODER
from probes.recording.tokens import TokenTexts

if TYPE_CHECKING:
    import torch

    from probes.capture import Want
    from probes.interventions import Spec
    from probes.steering import Steering
    from store.batch import Batch

NO_SCORES = "how it makes scores of its logits is not known: no entropy, no margin"


def wanted(options: RecordOptions) -> Want:
    """The capture levels of the options, as the hooks take them."""
    from probes.capture import Want

    levels = set(options.capture)
    return Want(
        logits="logits" in levels,
        weights="weights" in levels,
        norms="norms" in levels,
        outputs="outputs" in levels,
        moments="moments" in levels,
        hidden="hidden" in levels,
        router_inputs="router_inputs" in levels,
        every_norm="every_norm" in levels,
        shared="shared" in levels,
        layers=options.layers,
    )


@dataclass
class Feeder:
    """Feeds batches of prompts to a model under hooks and returns their rows."""

    model: Any
    tokenizer: Any
    recorder: Any
    predictions: Any
    settings: RowSettings
    max_new_tokens: int
    steering: Steering | None = None
    generation: tuple[str, ...] = ()  # options of writing that were asked for
    stepped: Callable[[int], Any] | None = None  # told the sequences of a batch each time they got another token

    @property
    def acted(self) -> bool | None:
        """Did the interventions reach any token; None where there are none, or where their options change nothing."""
        return None if self.steering is None else self.steering.acted

    def try_out(self) -> None:
        """ProbeError, before anything is written, where a wrapper around the model runs past the hooks.

        Two tokens are fed as the prompts will be; nothing of them is kept.
        """
        from probes.capture.check import dummy_inputs

        ids = dummy_inputs(self.model, tokens=2)["input_ids"][0].cpu().numpy()
        two = [EncodedPrompt(0, Prompt(text="", prompt_id="", source=""), ids, "")]
        one = replace(self, max_new_tokens=min(self.max_new_tokens, 1), stepped=None)
        one._generate(two) if self.max_new_tokens else one._read(two)
        self._check(two, self.recorder.take())
        self.recorder.take_moments()
        if self.predictions is not None:
            self.predictions.take()
        if self.steering is not None:
            self.steering.forget()

    def batch(self, index: int, group: Sequence[EncodedPrompt]) -> Batch:
        """Rows of one batch: a single pass over the prompts, or generation after them."""
        if self.steering is not None:  # a resumed run draws what an uninterrupted one would have drawn
            self.steering.restart(index)
        generated = self._generate(group) if self.max_new_tokens else self._read(group)
        forwards = self.recorder.take()
        self._check(group, forwards)
        predictions = self.predictions.take() if self.predictions else []
        if any(forward.stream == ENCODER for forward in forwards):  # an encoder predicts nothing
            both = zip(predictions, forwards, strict=bool(predictions))
            predictions = [made for made, forward in both if forward.stream != ENCODER]
        moments = self.recorder.take_moments() or None
        return batch_rows(index, group, generated, forwards, predictions, self.settings, moments)

    def _check(self, group: Sequence[EncodedPrompt], forwards: Sequence[Any]) -> None:
        """ProbeError, before anything of the batch is written, where the model ran past the hooks."""
        kind = type(self.model).__name__
        if not forwards:
            raise ProbeError(f"{kind} ran none of its routers where they could be seen; nothing can be recorded")
        if self.steering is not None and not self.steering.ran:
            raise ProbeError(f"{kind} ran past its interventions; nothing was steered, so nothing is recorded")
        given, seen = sum(len(item.ids) for item in group), int(forwards[0].mask.sum())
        if forwards[0].phase == "prefill" and seen != given:
            raise ProbeError(f"{kind} was given {given} tokens, and its routers saw {seen}, not said which")

    def _read(self, group: Sequence[EncodedPrompt]) -> list[np.ndarray]:
        # Padding on the right: positions need no shift, and recurrent layers (Mamba, linear attention) see it last.
        ids, mask = pad([item.ids for item in group], self._pad_id, left=False, device=device_of(self.model))
        masked = {} if mask is None else {"attention_mask": mask}
        few = {} if self.predictions else last_only(self.model)
        start = self._decoder_start()
        begun = {} if start is None else {"decoder_input_ids": ids.new_full((len(group), 1), start)}
        self._call(reader(self.model), input_ids=ids, use_cache=False, **masked, **few, **begun)
        return [np.asarray([] if start is None else [start], np.int32)] * len(group)

    def _generate(self, group: Sequence[EncodedPrompt]) -> list[np.ndarray]:
        ids, mask = pad([item.ids for item in group], self._pad_id, left=True, device=device_of(self.model))
        config = self.generation_config()
        mask = ids.new_ones(ids.shape) if mask is None else mask
        # All positions' logits, not only the last one's, so that the prompt's tokens get their log-probability too.
        keep = {"logits_to_keep": 0} if self.predictions and takes_logits_to_keep(self.model) else {}
        keep |= {} if self.stepped is None else {"stopping_criteria": _every_step(self.stepped)}
        output = self._call(write, model=self.model, ids=ids, mask=mask, config=config, **keep)
        stops, start = set(end_token_ids(self.model)), self._decoder_start()
        new = output[:, ids.shape[1] if start is None else 1 :].cpu().numpy().astype(np.int32)
        begun = np.asarray([] if start is None else [start], np.int32)
        return [np.concatenate([begun, cut_after(row, stops)]) for row in new]

    def _decoder_start(self) -> int | None:
        """What the decoder of an encoder-decoder model reads first; None for a decoder alone."""
        if not getattr(config_of(self.model), "is_encoder_decoder", False):
            return None
        return decoder_start_id(self.model)

    def generation_config(self) -> Any:
        """How the model writes: greedily, but for the options that were asked for."""
        return generation_config(
            self.model, max_new_tokens=self.max_new_tokens, pad_token_id=self._pad_id, options=self.generation
        )

    def written(self) -> dict[str, Any]:
        """How the model writes, JSON-able, for the run; empty where it only reads."""
        if not self.max_new_tokens:
            return {}
        left = left_aside(self.model)
        return {**used(self.generation_config()), **({"checkpoint_options_not_used": left} if left else {})}

    @property
    def notes(self) -> list[str]:
        """What of this model could not be recorded as asked, in words."""
        words: dict[str, list[int]] = {}
        for report in self.recorder.report.layers:
            for word in report.words:
                words.setdefault(word, []).append(report.layer)
            if self.settings.scoring.get(report.layer, "") is None:
                words.setdefault(NO_SCORES, []).append(report.layer)
        return self._said(words)

    def _said(self, words: dict[str, list[int]]) -> list[str]:
        layers = {
            word: f"layer{'s' if len(found) > 1 else ''} {','.join(map(str, found))}" for word, found in words.items()
        }
        missing = [self.predictions.why_not] if self.predictions else []
        if getattr(config_of(self.model), "is_encoder_decoder", False):
            missing.append("the encoder's layers have routing for the prompt, the decoder's for what follows it")
        writing = [words_of(left_aside(self.model))] if self.max_new_tokens else []
        return [*(f"{where}: {word}" for word, where in layers.items()), *filter(None, [*missing, *writing])]

    @property
    def _pad_id(self) -> int:
        for candidate in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if candidate is not None:
                return int(candidate)
        return 0

    def _call(self, function: Any, **inputs: Any) -> Any:
        import torch

        try:
            with torch.no_grad():
                return function(**inputs)
        except torch.OutOfMemoryError as error:
            raise ProbeError("the device is out of memory; use a smaller --batch-size or --max-length") from error


def _every_step(told: Callable[[int], Any]) -> Any:
    """Stopping criteria that never stop: the one place where `generate` lets us hear of each of its steps."""
    import torch
    from transformers import StoppingCriteriaList

    def never(ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        told(len(ids))
        return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)

    return StoppingCriteriaList([never])


def pad(
    sequences: Sequence[np.ndarray], pad_id: int, *, left: bool, device: Any
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Token ids [B, S] and their mask, which is None when nothing is padded: unmasked attention is faster."""
    import torch

    length = max(len(sequence) for sequence in sequences)
    ids = np.full((len(sequences), length), pad_id, dtype=np.int64)
    mask = np.zeros((len(sequences), length), dtype=np.int64)
    for row, sequence in enumerate(sequences):
        at = slice(length - len(sequence), length) if left else slice(0, len(sequence))
        ids[row, at], mask[row, at] = sequence, 1
    on_device = torch.from_numpy(ids).to(device)
    return on_device, None if mask.all() else torch.from_numpy(mask).to(device)


def cut_after(ids: np.ndarray, stops: set[int]) -> np.ndarray:
    """A generated sequence up to and including the first stop token; what follows is padding."""
    ends = np.flatnonzero(np.isin(ids, list(stops)))
    return ids[: ends[0] + 1] if len(ends) else ids


@contextlib.contextmanager
def feeder(
    model: Any, tokenizer: Any, options: RecordOptions, interventions: tuple[Spec, ...] = ()
) -> Iterator[Feeder]:
    """A Feeder whose hooks, and interventions, are on the model exactly as long as the block runs."""
    from probes.capture import capture
    from probes.capture.predictions import Predictions
    from probes.families.parameters import scoring_of
    from probes.steering import active, steer

    predictions = Predictions(model) if "predictions" in options.capture else None
    with contextlib.ExitStack() as stack:
        if interventions:
            stack.enter_context(steer(model, interventions, tokenizer=tokenizer))
        steering = active(model)
        recorder = stack.enter_context(capture(model, wanted(options)))
        watching = None if predictions is None else stack.enter_context(predictions)
        settings = RowSettings(
            routers=recorder.routers,
            slots={} if steering is None else steering.widths,
            scoring={layer: scoring_of(gating) for layer, gating in recorder.gating_parameters.items()},
            keep=frozenset(options.capture),
            logit_rate=options.logit_rate,
            output_rate=options.output_rate,
            seed=options.seed,
            token_texts=TokenTexts(tokenizer),
        )
        feed = Feeder(
            model, tokenizer, recorder, watching, settings, options.max_new_tokens, steering, options.generation
        )
        if wrappers(model):
            feed.try_out()
        yield feed
