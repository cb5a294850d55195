"""Training of a few parameters on labelled examples, with the model left as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, cos, pi
from typing import Any

import torch
from torch.func import functional_call

from probes.capture.hooks import lock_of
from probes.errors import ProbeError
from probes.interventions.adaptation.examples import Batch, Example, batch_of
from probes.interventions.adaptation.frozen import frozen
from probes.interventions.adaptation.losses import forward_inputs, next_token_loss
from probes.interventions.adaptation.trainable import Copy
from probes.interventions.decoding.prompt import padding_id

WARMUP = 0.1  # share of the steps in which the step size grows to its full


def train(
    model: Any,
    made: dict[str, Copy],
    examples: Sequence[Example],
    *,
    epochs: int,
    lr: float,
    batch_size: int,
    seed: int,
    progress: Callable[[int, int, float], None] | None = None,
) -> tuple[dict[str, torch.Tensor], list[float]]:
    """(name -> trained value, the loss of each step): AdamW, linear warm-up and cosine decay, targets' tokens only.

    `progress(step, steps, loss)` is called after each step. ProbeError where nothing of what is trained reaches the
    loss, or it stops being a number.
    """
    order = _order(len(examples), epochs, batch_size, seed)
    variables = [variable for one in made.values() for variable in one.variables]
    losses: list[float] = []
    with lock_of(model), frozen(model):
        optimizer = torch.optim.AdamW(variables, lr=lr, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share(step, len(order)))
        for step, rows in enumerate(order):
            loss = _loss(model, made, batch_of([examples[i] for i in rows], padding_id(model), variables[0].device))
            _descend(loss, variables)
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
            if progress is not None:
                progress(step + 1, len(order), losses[-1])
    return {name: one.value().detach() for name, one in made.items()}, losses


def _order(count: int, epochs: int, size: int, seed: int) -> list[list[int]]:
    """Rows of each step: every example once an epoch, in an order drawn anew."""
    generator = torch.Generator().manual_seed(seed)
    shuffled = [torch.randperm(count, generator=generator).tolist() for _ in range(epochs)]
    return [rows[start : start + size] for rows in shuffled for start in range(0, count, size)]


def _share(step: int, steps: int) -> float:
    warm = ceil(WARMUP * steps)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + cos(pi * (step - warm) / max(1, steps - warm)))


def _loss(model: Any, made: dict[str, Copy], batch: Batch) -> torch.Tensor:
    values = {name: one.value() for name, one in made.items()}
    output = functional_call(model, values, kwargs=forward_inputs(model, batch.ids, batch.mask))
    return next_token_loss(output.logits, batch.ids, batch.target).mean()


def _descend(loss: torch.Tensor, variables: list[torch.Tensor]) -> None:
    if not bool(torch.isfinite(loss.detach())):
        raise ProbeError(f"the loss is {float(loss.detach())}; take a smaller step size")
    if not loss.requires_grad:
        raise ProbeError("nothing that is trained reaches the model's output")
    for variable, grad in zip(variables, torch.autograd.grad(loss, variables, allow_unused=True), strict=True):
        variable.grad = torch.zeros_like(variable) if grad is None else grad
