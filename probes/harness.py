"""A model under interventions as one of the lm-evaluation-harness (an extra: `pip install router-workbench[harness]`).

    from probes.harness import harness_model
    from lm_eval import simple_evaluate

    lm = harness_model(model, tokenizer, ["ban:layer=3,expert=14"])
    simple_evaluate(model=lm, tasks=["arc_easy"])["results"]

Every request goes through the same code as `probe eval`: the same batches, steering and decoding strategies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np

from probes.errors import ProbeError
from probes.evaluation.arms import Arm, arm_of, check_arms, reseeded, step_by_step
from probes.evaluation.score import acted_in
from probes.evaluation.strategies import read, write
from probes.generation import Decoding, distributions, generate
from probes.generation_config import SAMPLING_OPTIONS, is_neutral, option_texts
from probes.recording.encode import context_length

MAX_NEW_TOKENS = 256
OWN = ("until", "do_sample", "temperature", "top_p", "max_gen_toks", "max_new_tokens")  # the rest goes by name
MISSING = "lm-evaluation-harness is not installed; get it with: pip install 'router-workbench[harness]'"


def harness_model(
    model: Any, tokenizer: Any, interventions: Any = (), *, batch_size: int = 16, trace: Any = None
) -> Any:
    """An `lm_eval.api.model.LM` that answers for `model` under `interventions` (specs, recipes, one strategy).

    trace: the recording that recipes ask. ProbeError where the harness is not installed; UsageError for interventions
    that do not fit the model.
    """
    arm = arm_of(interventions, trace) if interventions else Arm("baseline")
    lm = _lm_class()(model, tokenizer, arm, batch_size)
    check_arms([arm], model, tokenizer)
    return lm


def _others(settings: dict[str, Any], sample: bool) -> dict[str, Any]:
    """What a request asks for beyond `OWN` that would change its text; cuts of what is sampled change no greedy one."""
    skip = (*OWN, *(() if sample else SAMPLING_OPTIONS))
    return {n: v for n, v in settings.items() if n not in skip and v is not None and not is_neutral(n, v)}


@cache
def _lm_class() -> type:
    """The class, made when it is first needed: it derives from one of the harness."""
    try:
        from lm_eval.api.model import LM
    except ImportError as error:
        raise ProbeError(MISSING) from error

    class SteeredLM(LM):
        """A model under one arm of an evaluation."""

        def __init__(self, model: Any, tokenizer: Any, arm: Arm, batch_size: int) -> None:
            super().__init__()
            self._requests = Requests(model, tokenizer, arm, batch_size)

        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            return self._requests.pairs([request.args for request in requests])

        def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
            return [self._requests.whole(request.args[0]) for request in requests]

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            return self._requests.texts([request.args for request in requests])

        @property
        def tokenizer_name(self) -> str:
            return str(getattr(tokenizer_of(self), "name_or_path", "")).replace("/", "__")

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            return tokenizer_of(self).apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )

    def tokenizer_of(lm: Any) -> Any:
        return lm._requests.tokenizer

    return SteeredLM


class Requests:
    """What the harness asks, answered in batches of similar length."""

    def __init__(self, model: Any, tokenizer: Any, arm: Arm, batch_size: int) -> None:
        self.tokenizer = tokenizer
        self._model, self._arm, self._batch_size = model, arm, batch_size
        self._longest = context_length(model) or 2048

    def pairs(self, given: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """(ln p of the continuation, whether greedy decoding would write it) of each (context, continuation)."""
        return self._scored([self._encoded(context, continuation) for context, continuation in given])

    def whole(self, text: str) -> float:
        """ln p of a text of any length: windows of the model's context, each token predicted once."""
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        windows = get_rolling_token_windows(
            token_list=self.tokenizer.encode(text, add_special_tokens=False),
            prefix_token=self._prefix,
            max_seq_len=self._longest - 1,
            context_len=1,
        )
        return sum(score for score, _ in self._scored([make_disjoint_window(window) for window in windows]))

    def texts(self, given: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
        """What is written after each context, up to one of its stops."""
        manners = [self._decoding(settings) for _, settings in given]
        found = [""] * len(given)
        for manner in dict.fromkeys(manners):
            mine = [i for i, other in enumerate(manners) if other == manner]
            # What a context loses to make room for the answer it loses at its beginning, and never more than half.
            room = self._longest - min(manner.max_new_tokens, self._longest // 2)
            prompts = [self._ids(given[i][0])[-room:] for i in mine]
            for i, text in zip(mine, self._batched(prompts, len, partial(self._write, manner)), strict=True):
                found[i] = text
        return found

    def _decoding(self, settings: dict[str, Any]) -> Decoding:
        stop = settings.get("until") or ()
        sample = bool(settings.get("do_sample")) and float(settings.get("temperature") or 0) > 0
        return Decoding(
            int(settings.get("max_gen_toks") or settings.get("max_new_tokens") or MAX_NEW_TOKENS),
            (stop,) if isinstance(stop, str) else tuple(stop),
            sample,
            float(settings["temperature"]) if sample else 1.0,
            float(settings.get("top_p") or 1.0) if sample else 1.0,
            options=option_texts(_others(settings, sample)),
        ).checked()

    def _write(self, decoding: Decoding, prompts: list[list[int]]) -> list[str]:
        left = self._longest - max(map(len, prompts))
        decoding = replace(decoding, max_new_tokens=min(decoding.max_new_tokens, left))
        if self._arm.strategy is not None:
            return [g.text for g in write(self._model, self.tokenizer, prompts, decoding, self._arm.strategy)]
        return [one.text for one in generate(self._model, self.tokenizer, prompts, decoding)]

    def _scored(self, pairs: list[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        fitting = [(before[-max(self._longest - len(after), 1) :], after) for before, after in pairs]
        return self._batched(fitting, lambda pair: len(pair[0]) + len(pair[1]), self._score)

    def _score(self, pairs: list[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        import torch

        befores, afters = zip(*pairs, strict=True)
        if self._arm.strategy is not None:
            found = read(self._model, self.tokenizer, befores, afters, self._arm.strategy)
        else:
            found = distributions(self._model, self.tokenizer, befores, afters, stepwise=step_by_step(self._arm))
        scores = []
        for log_p, after in zip(found, afters, strict=True):
            ids = torch.as_tensor(after, device=log_p.device)
            score = float(log_p.gather(-1, ids[:, None]).double().sum())
            scores.append((score, bool((log_p.argmax(-1) == ids).all())))
        return scores

    def _batched(self, given: list[Any], size: Callable[[Any], int], answer: Callable[[list[Any]], list[Any]]) -> list:
        """Answers in the order of `given`; batches under the arm's interventions, longest first."""
        from probes.steering import steer

        order = sorted(range(len(given)), key=lambda i: (-size(given[i]), i))
        found: list[Any] = [None] * len(given)
        for number, start in enumerate(range(0, len(order), self._batch_size)):
            some = order[start : start + self._batch_size]
            specs = reseeded(self._arm.specs, number)
            with steer(self._model, specs, tokenizer=self.tokenizer) if specs else nullcontext() as steering:
                answers = answer([given[i] for i in some])
            if steering is not None:
                acted_in(steering, self._arm.name)
            for i, one in zip(some, answers, strict=True):
                found[i] = one
        return found

    def _encoded(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Ids of both, cut where the context ends; blanks at its end belong to the continuation."""
        if not context:
            return [self._prefix], self.tokenizer.encode(continuation, add_special_tokens=False)
        bare = context.rstrip()
        continuation = context[len(bare) :] + continuation
        before, whole = self._ids(bare), self._ids(bare + continuation)
        return before, whole[len(before) :]

    def _ids(self, text: str) -> list[int]:
        return np.asarray(self.tokenizer(text, verbose=False)["input_ids"]).tolist()

    @property
    def _prefix(self) -> int:
        known = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
        return int(next((one for one in known if one is not None), 0))
