"""Decoding strategies side by side on tasks with targets: accuracy against plain decoding, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from probes.errors import UsageError
from probes.interventions.decoding.base import Plan, parse_strategy
from probes.metrics.bootstrap import RESAMPLES, SEED, Weights, interval
from probes.prompts import Prompt

Judge = Callable[[Prompt, str], bool]


@dataclass
class _Tally:
    """What one strategy did."""

    right: list[bool] = field(default_factory=list)
    tokens: int = 0
    forwards: int = 0
    rows: int = 0
    seconds: float = 0.0


def is_right(prompt: Prompt, text: str) -> bool:
    """Is the first line of `text`, after any thinking, the prompt's `metadata.answer`, or else its target?"""
    expected = prompt.metadata.get("answer", prompt.target)
    said = text.lstrip().partition("\n")[0].rpartition("</think>")[2]
    return said.strip() == str(expected).strip()


def compare_strategies(
    model: Any,
    tokenizer: Any,
    prompts: Iterable[Prompt],
    strategies: Sequence[Any] = ("ensemble:n=4", "contrast", "rewire"),
    *,
    interventions: Any = (),
    judge: Judge = is_right,
    stop: Sequence[int | Sequence[int]] = (),
    max_new_tokens: int = 64,
    batch_size: int = 32,
    resamples: int = RESAMPLES,
    progress: Callable[[str, int, int], None] | None = None,
) -> Any:
    """A DataFrame with a row for plain decoding and one per strategy, greedy, under `interventions` if any are given.

    strategy, n                     its inline form, and how many prompts
    accuracy, low, high             share judged right, with a 95 % bootstrap interval over prompts
    difference, difference_low/high to plain decoding, paired: the same prompts in every resample
    gained, lost                    prompts that only the strategy, or only plain decoding, gets right
    rows_per_token, seconds_per_token, forwards  positions computed and time per new token; passes in all
    `progress(strategy, done, n)` is called after each batch. UsageError for prompts without text and target.
    """
    found = sorted(prompts, key=lambda one: len(one.text or ""))
    if not found or any(not one.text or not one.target for one in found):
        raise UsageError("comparing strategies takes prompts with a text and a target")
    plans = [
        parse_strategy("plain"),
        *(plan for plan in map(parse_strategy, strategies) if plan.strategy.name != "plain"),
    ]
    tallies = []
    for plan in plans:
        settings = {"stop": stop, "max_new_tokens": max_new_tokens}
        tallies.append(_run(model, tokenizer, found, plan, interventions, judge, batch_size, progress, settings))
    return _table(plans, tallies, resamples)


def _run(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    plan: Plan,
    interventions: Any,
    judge: Judge,
    size: int,
    progress: Any,
    settings: dict[str, Any],
) -> _Tally:
    from probes.interventions.decoding import decode
    from probes.steering import steer

    tally = _Tally()
    for batch in _batches(prompts, size):
        with ExitStack() as stack:
            if interventions:
                # Entered for each batch: its random numbers are then the same for every strategy.
                stack.enter_context(steer(model, interventions, tokenizer=tokenizer))
            out = decode(model, _padded(tokenizer, batch), plan, tokenizer=tokenizer, **settings)
        texts = tokenizer.batch_decode([row[:n] for row, n in zip(out.ids, out.lengths.tolist(), strict=True)])
        ends = {tokenizer.eos_token, tokenizer.pad_token} - {None}
        tally.right += [judge(one, _without(text, ends)) for one, text in zip(batch, texts, strict=True)]
        tally.tokens, tally.rows = tally.tokens + int(out.lengths.sum()), tally.rows + out.rows
        tally.forwards, tally.seconds = tally.forwards + out.forwards, tally.seconds + out.seconds
        if progress is not None:
            progress(str(plan), len(tally.right), len(prompts))
    return tally


def _batches(prompts: Sequence[Prompt], size: int) -> Iterator[Sequence[Prompt]]:
    for start in range(0, len(prompts), size):
        yield prompts[start : start + size]


def _padded(tokenizer: Any, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """Their ids as a batch, padded on the left whatever the tokenizer would do."""
    import torch

    rows = [tokenizer(one.text).input_ids for one in prompts]
    longest, padding = max(map(len, rows)), tokenizer.pad_token_id or 0
    ids = [[padding] * (longest - len(row)) + row for row in rows]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def _without(text: str, ends: set[str]) -> str:
    # Special tokens are taken off by name: a tokenizer may hold "</think>" for special as well.
    for end in ends:
        text = text.replace(end, "")
    return text


def _table(plans: Sequence[Plan], tallies: Sequence[_Tally], resamples: int) -> Any:
    import pandas as pd

    right = np.array([tally.right for tally in tallies], np.float64)
    drawn = Weights(right.shape[1], resamples, SEED).take(right.shape[1]) @ right.T / right.shape[1]
    low, high = (np.clip(end, 0, 1) for end in interval(right.mean(1), drawn))
    difference = right.mean(1) - right[0].mean()
    difference_low, difference_high = interval(difference, drawn - drawn[:, :1])
    tokens = np.maximum([tally.tokens for tally in tallies], 1)
    return pd.DataFrame(
        {
            "strategy": list(map(str, plans)),
            "n": right.shape[1],
            "accuracy": right.mean(1),
            "low": low,
            "high": high,
            "difference": difference,
            "difference_low": difference_low,
            "difference_high": difference_high,
            "gained": (right > right[0]).sum(1),
            "lost": (right < right[0]).sum(1),
            "rows_per_token": [tally.rows for tally in tallies] / tokens,
            "seconds_per_token": [tally.seconds for tally in tallies] / tokens,
            "forwards": [tally.forwards for tally in tallies],
        }
    )
