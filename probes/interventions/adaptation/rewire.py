"""Rewiring: a vector per layer, added to the router's logits and learned from the text at hand.

The vectors are learned on the prompt, and again every so many tokens on everything so far, by lowering the next-token
loss; each sequence has its own. They live beside the model and are dropped with the block; `learn_vectors` keeps them
as a spec.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import ceil
from typing import Any

import torch

from probes.errors import UsageError
from probes.interventions.adaptation.frozen import frozen
from probes.interventions.adaptation.losses import forward_inputs, next_token_loss, predicted, sequences
from probes.interventions.decoding.base import Learner
from probes.interventions.decoding.prompt import decoder_of, read_prompt
from probes.interventions.site import Site
from probes.interventions.spec import Scope, Spec
from probes.steering import steer

OPTIMIZERS = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}


class Rewire(Learner):
    """Vectors and how they are learned.

    options     steps, lr, optimizer, every, layers, confident: as the strategy `rewire` declares them
    shared      one vector for the whole batch instead of one per sequence
    vectors     layer -> float32 [B, E] ([1, E] where shared)
    confidence  layer -> float32 [B]: mean over the first prompt's tokens of the highest score
    losses      float32 [steps, B]: the loss before each step, of the last time it learned
    """

    def __init__(self, model: Any, options: Mapping[str, Any], shared: bool = False) -> None:
        self.every, self.losses = int(options["every"]), torch.zeros(0, 0)
        self.vectors: dict[int, torch.Tensor] = {}
        self.confidence: dict[int, torch.Tensor] = {}
        self._model, self._options, self._shared = model, options, shared
        self._mask: Any = None

    def spec(self) -> Spec:
        """The intervention that adds to every pass what is learned by then."""
        layers = tuple(self._options["layers"]) or None
        return Spec("logit_vectors", {"vectors": self._add, "mode": "add"}, Scope(layers=layers))

    def _add(self, site: Site, z: torch.Tensor) -> torch.Tensor:
        rows = sequences(site, z)
        if site.layer not in self.vectors:
            if self._mask is None:
                return z
            self._meet(site, z, rows)
        vector = self.vectors[site.layer]
        per_row = vector if self._shared else vector[rows]
        return (z.float() + per_row.to(z.device)).to(z.dtype)

    def _meet(self, site: Site, z: torch.Tensor, rows: torch.Tensor) -> None:
        """A layer is passed for the first time."""
        real = self._mask.reshape(-1).to(z.device).float()
        sums = torch.zeros(2, len(self._mask), device=z.device)
        sums.index_add_(1, rows, torch.stack([real * site.scores().detach().amax(-1), real]))
        self.confidence[site.layer] = sums[0] / sums[1].clamp(min=1)
        size = 1 if self._shared else len(self._mask)
        self.vectors[site.layer] = torch.zeros(size, z.shape[1], device=z.device, requires_grad=True)

    def learn(self, ids: torch.Tensor, mask: torch.Tensor) -> None:
        """Lower the loss of each sequence of ids [B, S] by its own vectors, from where they are."""
        if not self._options["steps"]:
            return
        self._mask = mask
        optimizer, losses = None, []
        with frozen(self._model):
            self._ask_for_gradients(True)
            for _ in range(self._options["steps"]):
                losses.append(self._loss(ids, mask))
                optimizer = optimizer or self._optimizer()
                self._step(losses[-1], optimizer)
        self._ask_for_gradients(False)
        self.losses = torch.stack(losses).detach()

    def _ask_for_gradients(self, yes: bool) -> None:
        for vector in self.vectors.values():
            vector.requires_grad_(yes)
            vector.grad = None

    def _loss(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        self.forwards, self.rows = self.forwards + 1, self.rows + ids.numel()
        logits = self._model(**forward_inputs(self._model, ids, mask)).logits
        return next_token_loss(logits, ids, predicted(mask))

    def _optimizer(self) -> Any:
        return OPTIMIZERS[self._options["optimizer"]](list(self.vectors.values()), lr=self._options["lr"])

    def _step(self, loss: torch.Tensor, optimizer: Any) -> None:
        vectors = list(self.vectors.values())
        # Summed, not averaged, over sequences: what one learns must not depend on how many others are in the batch.
        total = loss.mean() if self._shared else loss.sum()
        grads = torch.autograd.grad(total, vectors, allow_unused=True)
        for vector, grad, learns in zip(vectors, grads, self._learning(), strict=True):
            vector.grad = torch.zeros_like(vector) if grad is None else grad * learns[:, None]
        optimizer.step()

    def _learning(self) -> torch.Tensor:
        """float [L, B or 1]: 1 for the layers of a sequence whose routers are the most confident."""
        confidence = torch.stack(list(self.confidence.values()))
        confidence = confidence.mean(1, keepdim=True) if self._shared else confidence
        count = ceil(self._options["confident"] * len(confidence))
        return torch.zeros_like(confidence).scatter_(0, confidence.topk(count, dim=0).indices, 1.0)


@contextmanager
def rewiring(model: Any, options: Mapping[str, Any], tokenizer: Any = None) -> Iterator[Rewire]:
    """`model` with vectors over its logits, zero until they have learned, while the block lasts."""
    learner = Rewire(model, options)
    with steer(model, [learner.spec()]):
        yield learner


def learn_vectors(
    model: Any,
    inputs: Any,
    *,
    steps: int = 5,
    lr: float = 0.05,
    optimizer: str = "adam",
    layers: tuple[int, ...] = (),
    confident: float = 1.0,
) -> Spec:
    """Vectors that lower the next-token loss of `inputs` (ids, or what a tokenizer gives; padding on the left), one set
    for all of them, as a spec to keep, steer and share. The model is as it was. UsageError for a prompt of one token.
    """
    model = decoder_of(model)
    prompt = read_prompt(model, inputs)
    if not bool(predicted(prompt.mask).any()):
        raise UsageError("there is nothing to learn from prompts of one token")
    options = {"steps": steps, "lr": lr, "optimizer": optimizer, "layers": layers, "confident": confident, "every": 0}
    learner = Rewire(model, options, shared=True)
    with steer(model, [learner.spec()]):
        learner.learn(prompt.ids, prompt.mask)
    table = {str(layer): vector[0].tolist() for layer, vector in learner.vectors.items()}
    return Spec("logit_vectors", {"vectors": table, "mode": "add"}, Scope(layers=tuple(learner.vectors)))
