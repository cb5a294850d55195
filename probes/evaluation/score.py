"""One batch of items under one arm: what is written, what is chosen, how probable the targets are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from probes.errors import ProbeError
from probes.evaluation.arms import Arm, reseeded
from probes.evaluation.items import Item, answer_of
from probes.evaluation.strategies import read, write
from probes.generation import Decoding, distributions, generate, kl

if TYPE_CHECKING:
    import torch

Record = dict[str, Any]


@dataclass
class Scorer:
    """A model and how it is asked. `stepwise`: targets are read token by token, as they would be written.

    wrote  the ids that were written in the last batch, one array per item; empty where none were
    """

    model: Any
    tokenizer: Any
    decoding: Decoding
    batch_size: int | None
    stepwise: bool
    wrote: list[np.ndarray] = field(default_factory=list)

    def batch(
        self, items: Sequence[Item], arm: Arm, number: int, base: list[torch.Tensor] | None
    ) -> tuple[list[Record], list[torch.Tensor]]:
        """(a record per item, the distributions over its target); `base`: those of the baseline, None for itself.

        All passes of a batch are under the same steering, so random interventions go on drawing.
        """
        from probes.steering import steer

        specs = reseeded(arm.specs, number)
        with steer(self.model, specs, tokenizer=self.tokenizer) if specs else nullcontext() as steering:
            found, chosen = self._targets(items, arm)
            written = self._written(items, arm)
        acted = {} if steering is None else {"acted": acted_in(steering, arm.name)}
        records = [self._record(item, log_p) for item, log_p in zip(items, found, strict=True)]
        for record, log_p, before in zip(records, found, base or found, strict=True):
            record["kl"] = 0.0 if base is None else _finite(float(kl(before, log_p).sum()))
        for record, more, text in zip(records, chosen, written, strict=True):
            record |= {**more, **text, **acted}
        return records, found

    def base(self, items: Sequence[Item], arm: Arm) -> list[torch.Tensor]:
        """The distributions of the baseline over each target once more; nothing is written."""
        return self._targets(items, arm)[0]

    def _record(self, item: Item, log_p: torch.Tensor) -> Record:
        nll = _finite(_nll(log_p, item.target))
        return {"task": item.task, "item": item.number, "nll": nll, "n": len(item.target)}

    def _targets(self, items: Sequence[Item], arm: Arm) -> tuple[list[torch.Tensor], list[Record]]:
        """Distributions over each item's target, and of multiple choice which was taken."""
        if items[0].kind != "choice":
            pairs = [(item.before_target, item.target) for item in items]
            return self._distributions(pairs, arm), [{} for _ in items]
        pairs = [(item.ids, c) for item in items for c in item.continuations]
        flat, start, found, records = self._distributions(pairs, arm), 0, [], []
        for item in items:
            mine = flat[start : start + len(item.continuations)]
            start += len(item.continuations)
            scores = [-_nll(log_p, c) for log_p, c in zip(mine, item.continuations, strict=True)]
            choice, right = int(np.argmax(scores)), item.right_choice
            margin = scores[right] - max(score for i, score in enumerate(scores) if i != right)
            found.append(mine[right])
            assert item.prompt.choices is not None
            records.append({"chosen": choice == right, "margin": margin, "output": item.prompt.choices[choice]})
        return found, records

    def _distributions(self, pairs: Sequence[tuple[np.ndarray, np.ndarray]], arm: Arm) -> list[torch.Tensor]:
        size = self.batch_size or len(pairs)
        found: list[torch.Tensor] = []
        for i in range(0, len(pairs), max(size, 1)):
            befores, targets = zip(*pairs[i : i + size], strict=True)
            if arm.strategy is not None:
                found += read(self.model, self.tokenizer, befores, targets, arm.strategy)
            else:
                found += distributions(self.model, self.tokenizer, befores, targets, stepwise=self.stepwise)
        return found

    def _written(self, items: Sequence[Item], arm: Arm) -> list[Record]:
        self.wrote = []
        if items[0].kind != "answer":
            return [{} for _ in items]
        prompts = [item.ids for item in items]
        if arm.strategy is not None:
            done = write(self.model, self.tokenizer, prompts, self.decoding, arm.strategy)
        else:
            done = generate(self.model, self.tokenizer, prompts, self.decoding)
        self.wrote = [one.ids for one in done]
        return [
            {
                "output": one.text,
                "right": answer_of(one.text) == item.answer,
                "length": one.length,
                "unfinished": not one.finished,
            }
            for item, one in zip(items, done, strict=True)
        ]


def acted_in(steering: Any, name: str) -> bool | None:
    """Did the interventions reach any token; None where their options change nothing. ProbeError where none could.

    An arm that never acted says nothing about what its interventions do.
    """
    if not steering.ran:
        raise ProbeError(f"{name}: the model ran past its interventions, so nothing was steered; nothing is reported")
    acted: bool | None = steering.acted
    return acted


def _finite(value: float) -> float | None:
    """None for what is infinite: a strategy that rules tokens out gives them no probability at all."""
    return value if math.isfinite(value) else None


def _nll(log_p: torch.Tensor, target: np.ndarray) -> float:
    """−Σ ln p of the target's tokens."""
    import torch

    ids = torch.as_tensor(target, device=log_p.device)[:, None]
    return -float(log_p.gather(-1, ids).double().sum())
