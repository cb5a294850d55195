"""The decoding loop: the prompt, then token by token, with a cache per copy and the strategy's own arithmetic."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch

from probes.capture.stage import prompt_of
from probes.errors import UsageError
from probes.interventions.decoding.base import Decoded, Learner, Plan, parse_strategy
from probes.interventions.decoding.prompt import Prompt, decoder_of, end_ids, padding_id, read_prompt
from probes.interventions.decoding.runner import Runner
from probes.interventions.decoding.written import Written
from probes.steering import active, steer


@torch.no_grad()
def decode(
    model: Any,
    inputs: Any,
    strategy: Any = "plain",
    max_new_tokens: int = 64,
    *,
    stop: Iterable[int | Sequence[int]] = (),
    sample: bool = False,
    temperature: float = 1.0,
    seed: int = 0,
    use_cache: bool = True,
    tokenizer: Any = None,
    keep_scores: bool = False,
    watch: Callable[[Any], Any] | None = None,
    given: Any = None,
) -> Decoded:
    """Continue each prompt of `inputs` by `strategy` until it ends or has `max_new_tokens` more.

    inputs     ids [B, S], or a mapping with `input_ids` and `attention_mask` (padding on the left)
    strategy   a name, "ensemble:n=4,tau=0.5", a dict, or a `Plan`
    stop       token ids, or sequences of them, that end a sequence, besides the model's own end tokens
    sample     draw from the distribution at `temperature`, seeded, instead of taking its highest
    watch      called after each token with the new ids [B, N]; where the bools [B] it may return are true, it ends
    use_cache  False computes everything anew for each token: slow, to check against
    given      ids [B, N] that are taken instead of choosing: a text is read as the strategy would have written it,
               all N tokens of it; its log-probabilities and scores are those of these tokens
    Works inside `probes.steer`. UsageError for what does not fit; ProbeError for a model that is no decoder.
    """
    plan, model = parse_strategy(strategy), decoder_of(model)
    if max_new_tokens < 0 or not temperature > 0:
        raise UsageError("max_new_tokens must be at least 0 and temperature above 0")
    prompt, ends = read_prompt(model, inputs), end_ids(model, tuple(stop))
    draw = _sampler(temperature, seed) if sample else _highest
    if given is not None:
        taken = iter(torch.as_tensor(given).to(prompt.ids).unbind(1))
        draw, ends, max_new_tokens = (lambda scores: next(taken)), (), torch.as_tensor(given).shape[1]
    started = time.perf_counter()
    with ExitStack() as stack:
        learner = stack.enter_context(_learning(model, plan, tokenizer))
        run = _Run(model, plan, prompt, learner, use_cache, stack)
        written = Written(prompt, ends, padding_id(model), keep_scores)
        if learner is None:  # one that learns reads what was written once more, as a text
            stack.enter_context(prompt_of(model, prompt.ids.shape[1]))
        for step in range(max_new_tokens):
            scores = run.scores(step, written)
            written.add(draw(scores), scores)
            written.end(watch(written.ids) if watch is not None else None)
            if written.done:
                break
    return written.result(run.forwards, run.rows, time.perf_counter() - started)


def _learning(model: Any, plan: Plan, tokenizer: Any) -> AbstractContextManager[Learner | None]:
    if plan.is_plain or plan.strategy.learn is None:
        return nullcontext()
    return plan.strategy.learn(model, plan.options, tokenizer)


def _highest(scores: torch.Tensor) -> torch.Tensor:
    return scores.argmax(-1)


def _sampler(temperature: float, seed: int) -> Callable[[torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)  # on the host, so that every device draws the same

    def draw(scores: torch.Tensor) -> torch.Tensor:
        probabilities = (scores / temperature).softmax(-1).cpu()
        return torch.multinomial(probabilities, 1, generator=generator)[:, 0].to(scores.device)

    return draw


class _Run:
    """A strategy at work: what it makes of each step."""

    def __init__(
        self, model: Any, plan: Plan, prompt: Prompt, learner: Learner | None, use_cache: bool, stack: ExitStack
    ) -> None:
        self._model, self._plan, self._prompt, self._learner = model, plan, prompt, learner
        self._use_cache, self._stack = use_cache, stack
        self._copies = 1 if plan.is_plain else plan.strategy.copies(plan.options)
        self._runner = Runner(model, self._copies, use_cache, plan.strategy.lends)

    @property
    def forwards(self) -> int:
        """Passes of the model so far."""
        return self._runner.forwards + (self._learner.forwards if self._learner else 0)

    @property
    def rows(self) -> int:
        """Positions computed so far."""
        return self._runner.rows + (self._learner.rows if self._learner else 0)

    def scores(self, step: int, written: Written) -> torch.Tensor:
        """Scores [B, V] of the next token, float32."""
        ids, mask = written.whole()
        self._learn(step, ids, mask)
        if step == 0:
            self._begin(ids, mask)
        logits = self._runner.run(ids, mask)
        return logits[:, 0] if self._plan.is_plain else self._plan.strategy.combine(self._plan.options, logits)

    def _learn(self, step: int, ids: torch.Tensor, mask: torch.Tensor) -> None:
        if self._learner is None or (step and (not self._learner.every or step % self._learner.every)):
            return
        self._learner.learn(ids, mask)
        self._runner.forget()  # computed before it had learned this

    def _begin(self, ids: torch.Tensor, mask: torch.Tensor) -> None:
        """The prompt once for all copies where that is the same, and the strategy's interventions from then on."""
        specs = () if self._plan.is_plain else self._plan.strategy.specs(self._plan.options, self._prompt.batch)
        if self._splits(mask):
            self._runner.prefix(ids[:, :-1], mask[:, :-1])
        if specs:
            self._stack.enter_context(steer(self._model, specs))

    def _splits(self, mask: torch.Tensor) -> bool:
        # What a copy does differs at the newest token only. But under interventions of the user's own, a prompt cut in
        # two could look like a prompt and a decoded token.
        shared = self._plan.strategy.lends and self._copies > 1 and self._use_cache
        return shared and active(self._model) is None and bool((mask.sum(1) > 1).all())


__all__ = ["decode"]
